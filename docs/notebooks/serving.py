# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Serving: a model that sees, behind OpenAI's interface
#
# A tiny InternVL-Flash memorises three pictures and is served from this process. The official `openai` client asks for
# whole and streamed responses, for JSON and for log-probabilities. Nothing is downloaded; two CPU cores need about a
# minute. `python -m internvl.serve --model=FOLDER` serves a folder of weights in the same way.

# %%
import os

# Quick compilation, since the model is tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import asyncio
import base64
import concurrent.futures
import dataclasses
import io
import json
import threading

import httpx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import openai
import optax
from IPython.display import display
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

import internvl
from core.engine import Engine
from core.files.generation import Generation
from core.serving import server
from core.serving.admission import Capacity
from core.serving.chat import http
from core.serving.chat.model import Words
from core.serving.chat.program import text_of
from core.serving.chat.service import Service
from core.serving.chat.worker import Worker
from internvl.features import Images
from internvl.flash import router, routing
from internvl.inputs.processor_config import ProcessorConfig
from internvl.serving import page
from internvl.serving.messages import Limits
from internvl.serving.model import VisionLanguageModel
from internvl.serving.vision import Coupled

tiny = internvl.CONFIGS['tiny-flash']
tower = dataclasses.replace(tiny.vision, image_size=64, patch=8)
config = dataclasses.replace(tiny, vision=tower, flash=router.Config(relative=0.5, absolute=0.0))
sizes = {'tokens_per_tile': config.tokens_per_tile, 'max_tiles': 4, 'max_length': 512}
processor = internvl.Processor.over_bytes(ProcessorConfig(image_size=64, system='', **sizes))
config = dataclasses.replace(config, image_token=processor.image_id)
params = internvl.init(jax.random.key(0), config)

# %% [markdown]
# ## Three pictures
#
# Each is cut into two tiles, followed by a thumbnail.

# %%
SHAPES = {'red square': 'rectangle', 'blue disc': 'ellipse', 'green bar': 'rectangle'}
QUESTION = 'What is it?'
SQUARE = (42, 10, 86, 54)  # left, top, right, bottom
BAR = (10, 26, 118, 38)


def picture(name: str) -> Image.Image:
  """A shape on paper."""
  colour, shape = name.split()
  image = Image.new('RGB', (128, 64), '#fbf8f0')
  draw = getattr(ImageDraw.Draw(image), SHAPES[name])
  draw(BAR if shape == 'bar' else SQUARE, fill=colour)
  return image


pictures = {name: picture(name) for name in SHAPES}
sheet = Image.new('RGB', (128 * 3 + 20, 64), 'white')
for place, image in enumerate(pictures.values()):
  sheet.paste(image, (138 * place, 0))
display(sheet)

# %% [markdown]
# ## Memorising them
#
# The model learns the answers with all image tokens and with a quarter of them, so it can use either.

# %%
MODES = ('off', 'all')


def lesson(name: str, mode: str) -> internvl.Inputs:
  """A question about a picture with its answer, laid out as the server lays it out."""
  question = {'role': 'user', 'content': f'<image>\n{QUESTION}'}
  answer = {'role': 'assistant', 'content': f'A {name}.'}
  x = processor([question, answer], [pictures[name]])
  decided = routing.decide(config, None, len(x.pixels), mode)
  return routing.shorten(x, decided, config.image_token)


lessons = [lesson(name, mode) for name in SHAPES for mode in MODES]
longest = max(len(x.tokens) for x in lessons)


def padded(row: np.ndarray) -> np.ndarray:
  """A row of tokens or of its mask, with zeros up to the longest."""
  return np.pad(row, (0, longest - len(row)))


tokens = np.stack([padded(x.tokens) for x in lessons])
mask = np.stack([padded(x.mask) for x in lessons])
pixels = np.stack([x.pixels for x in lessons])
tile_tokens = np.stack([x.tile_tokens for x in lessons])
optimizer = optax.adam(3e-3)


@jax.jit
def step(params, state):
  """(weights, optimiser state, loss) after one update on all lessons."""

  def loss(params):
    out = internvl.apply(params, config, tokens, pixels=pixels, tile_tokens=tile_tokens)
    before = out.logits[:, :-1]
    by_token = optax.softmax_cross_entropy_with_integer_labels(before, tokens[:, 1:])
    return jnp.mean(by_token, where=mask[:, 1:])

  value, gradient = jax.value_and_grad(loss)(params)
  updates, state = optimizer.update(gradient, state)
  params = optax.apply_updates(params, updates)
  return params, state, value


state = optimizer.init(params)
losses = []
for _ in range(120):
  params, state, value = step(params, state)
  losses.append(float(value))
print(f'cross entropy: {losses[0]:.2f} at first, {losses[-1]:.4f} at last')

# %% [markdown]
# ## A server in this process
#
# One thread steps the engine, another answers HTTP. The key and the Host are checked as they are on a real server.

# %%
weights = internvl.for_decoding(params)
images = Images(weights, config)
text = text_of(processor.tokenizer)
size = {'slots': 4, 'pages': 200, 'page_size': 16, 'segment': 4}
engine = Engine(weights.language, config.language, **size, features=images, text=text, top_logprobs=5)
worker = Worker(engine)
worker.__enter__()  # the thread; a program uses it as a context

words = Words(processor.tokenizer, vocab=config.language.vocab, stops=processor.stop_ids, tokens=512)
model = VisionLanguageModel(
  'tiny', processor, words, Coupled(images), defaults=Generation(temperature=1.0), limits=Limits()
)
service = Service(model, worker, capacity=Capacity(64), seconds=60.0)
sock = server.listen('127.0.0.1', 0)
bounds = server.Bounds()
app = http.application(service, page.routes(service))
guarded = server.guarded(app, token='secret', hosts=['127.0.0.1'], bounds=bounds, open_paths=['/'])
serve = lambda: asyncio.run(server.serve(guarded, sock, bounds))
threading.Thread(target=serve, daemon=True).start()
host, port = sock.getsockname()
address = f'http://{host}:{port}'
client = openai.OpenAI(base_url=f'{address}/v1', api_key='secret')
print([m.id for m in client.models.list().data])

# %% [markdown]
# ## Questions
#
# Images are sent as data URLs. `compression` is our extension: here the model reads a quarter of the image tokens.

# %%
greedy = {'model': 'tiny', 'temperature': 0}


def shown(name: str) -> list[dict]:
  """A question about a picture as OpenAI's interface has it."""
  buffer = io.BytesIO()
  pictures[name].save(buffer, 'PNG')
  encoded = base64.b64encode(buffer.getvalue()).decode()
  image = {'type': 'image_url', 'image_url': {'url': f'data:image/png;base64,{encoded}'}}
  question = {'type': 'text', 'text': QUESTION}
  return [{'role': 'user', 'content': [image, question]}]


for name in SHAPES:
  for mode in MODES:
    reply = client.chat.completions.create(messages=shown(name), extra_body={'compression': mode}, **greedy)
    details = reply.usage.model_dump()['prompt_tokens_details']
    image_tokens = details['image_tokens']
    print(f'{mode:4}{image_tokens:3} image tokens: {reply.choices[0].message.content}')

# %% [markdown]
# A stream arrives in pieces of one segment (four tokens, here bytes); a piece never splits a character.

# %%
stream = client.chat.completions.create(messages=shown('blue disc'), stream=True, **greedy)
pieces = [chunk.choices[0].delta.content for chunk in stream]
print(list(filter(None, pieces)))

# %% [markdown]
# ## JSON, token by token
#
# The schema becomes a mask over the vocabulary before each token. The model has never seen JSON, and still its response
# is JSON that follows the schema. Where the schema leaves a choice, what it chooses means little: it has not learned
# it.

# %%
schema = {
  'type': 'object',
  'properties': {
    'shape': {'enum': list(SHAPES)},
    'sides': {'type': 'integer', 'minimum': 0, 'maximum': 9},
  },
  'required': ['shape', 'sides'],
  'additionalProperties': False,
}
wanted = {'type': 'json_schema', 'json_schema': {'name': 'shape', 'schema': schema, 'strict': True}}
for name in SHAPES:
  reply = client.chat.completions.create(messages=shown(name), response_format=wanted, **greedy)
  print(name, '->', json.loads(reply.choices[0].message.content))

# %% [markdown]
# ## What else it could have said
#
# The likeliest alternatives to the third token, the first letter of the colour.

# %%
asked = {'logprobs': True, 'top_logprobs': 3}
for name in SHAPES:
  reply = client.chat.completions.create(messages=shown(name), **asked, **greedy)
  third = reply.choices[0].logprobs.content[2]
  likeliest = {}
  for entry in third.top_logprobs:
    probability = float(np.exp(entry.logprob))
    likeliest[entry.token] = round(probability, 4)
  print(name, '->', likeliest)

# %% [markdown]
# ## Tiles
#
# With `tile_details` the usage reports the router's decisions, which the page at `/` draws over each image. This router
# is random: half of the tiles are above the quantile that `auto` compares with.

# %%
extra = {'compression': 'auto', 'tile_details': True}
reply = client.chat.completions.create(messages=shown('red square'), extra_body=extra, **greedy)
details = reply.usage.model_dump()['prompt_tokens_details']
(drawn,) = details['images']
fig, (whole, thumbnail) = plt.subplots(1, 2, figsize=(6, 2.2), width_ratios=[2, 1], layout='constrained')
whole.imshow(pictures['red square'])
thumbnail.imshow(pictures['red square'].resize((64, 64)))
corners = [(whole, 0), (whole, 64), (thumbnail, 0)]
for (ax, left), tile in zip(corners, drawn['tiles']):
  colour = 'darkorange' if tile['compressed'] else 'green'
  ax.add_patch(Rectangle((left, 0), 63, 63, fill=False, edgecolor=colour, linewidth=3))
  ax.text(left + 3, 59, f'{tile["tokens"]}, p={tile["score"]:.2f}', fontsize=8)
  ax.axis('off')
plt.show()
saved = details['image_tokens_saved']
print(f'{saved} of {saved + details["image_tokens"]} saved')

# %% [markdown]
# ## Many at once, and what the server counts
#
# Requests are batched continuously: they enter and leave the four slots between two segments. Prompts with a cached
# prefix share its pages, so few of these tokens are prefilled.

# %%
crowd = [*SHAPES] * 8


def answer(name: str) -> str:
  """What the model says of a picture."""
  reply = client.chat.completions.create(messages=shown(name), **greedy)
  return reply.choices[0].message.content


with concurrent.futures.ThreadPoolExecutor(24) as threads:
  answers = list(threads.map(answer, crowd))
print({said: answers.count(said) for said in answers})
metrics = httpx.get(f'{address}/metrics', headers={'Authorization': 'Bearer secret'}).text
wanted = ('prompt_tokens', 'prefilled', 'tokens_total', 'first_token', 'running')
for line in metrics.splitlines():
  is_comment = line.startswith('#')
  if not is_comment and any(name in line for name in wanted):
    print(line)

# %% [markdown]
# `--vision=separate` gives the vision tower its own thread and devices, and `internvl.serve_vision` its own process or
# host: [Serving](../serving.md).
