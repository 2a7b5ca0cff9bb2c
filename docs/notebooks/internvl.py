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
# # InternVL: load, train, ask, shard, adapt, quantise
#
# The smallest InternVL, from an empty folder to a quantised model that reads handwritten digits. Every call is the
# one you would make for `InternVL3_5-8B`; only the size differs. Nothing is downloaded, and two CPU cores need about
# three minutes.

# %%
import os

# Eight devices on one CPU, to show sharding, and quick compilation, since these models are tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import internvl
from core import mesh, params
from core.toy import digits
from core.training import steps
from core.training.optim import Optim
from internvl import train
from internvl.data import packing
from internvl.data.dataset import Examples, Rows
from internvl.training import export, sft, start

plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})
work = pathlib.Path(tempfile.mkdtemp())
print(jax.device_count(), 'devices')

# %% [markdown]
# ## A folder as published
#
# A published model is a folder: weights in safetensors files, `config.json`, the tokenizer, and the constants of the
# image preprocessing. We draw random weights for the tiny size and save them in the layout of
# `OpenGVLab/InternVL3_5-*-HF`.

# %%
recipe = dataclasses.replace(train.CONFIGS['tiny'], batch=8, steps=80)
processor = start.processor_for(recipe)
config = dataclasses.replace(internvl.CONFIGS['tiny'], image_token=processor.image_id)
untrained = work / 'untrained'
export.export(untrained, config, internvl.init(jax.random.key(0), config), processor)

for file in sorted(untrained.iterdir()):
  print(f'{file.stat().st_size:>9,} bytes  {file.name}')

# %% [markdown]
# `load` checks every name and shape against the files before it reads a weight. The parameters are a plain tree of
# arrays, so `jax.tree.map`, `jit` and `grad` apply to them directly.

# %%
config, weights = internvl.load(untrained, dtype='float32')
processor = internvl.Processor.load(untrained)
print(f'{params.count(internvl.spec(config)):,} parameters')
for path, leaf in jax.tree.leaves_with_path(weights)[:8]:
  print(f'{params.path_name(path):<32} {leaf.shape}')

# %% [markdown]
# ## Train it to read digits
#
# The data are scikit-learn's 1,797 scanned digits, each with two questions. A training file is JSON lines: an image
# and a conversation.

# %%
WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
PARITY = ('even', 'odd')
QUESTIONS = {
  'Which digit?': str,
  'Even or odd?': lambda digit: PARITY[digit % 2],
}


def example(image, question, answer):
  """One line of a training file."""
  asked = {'from': 'human', 'value': f'<image>\n{question}'}
  said = {'from': 'gpt', 'value': answer}
  return json.dumps({'image': str(image), 'conversations': [asked, said]})


def write(name, split, questions, count):
  """A JSONL file of `count` conversations about scans of `split`, which may come up again with another question."""
  scans = digits.scans(split)
  folder = work / 'images' / split
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for i in range(count):
    again, row = divmod(i, len(scans.labels))
    image = folder / f'{row}.png'
    if not image.exists():
      Image.fromarray(scans.pixels[row]).save(image)
    question = list(questions)[(i + again) % len(questions)]
    label = int(scans.labels[row])
    lines.append(example(image, question, questions[question](label)))
  path = work / f'{name}.jsonl'
  path.write_text('\n'.join(lines) + '\n')
  return str(path)


data = write('train', 'train', QUESTIONS, 2 * 1437)
print(pathlib.Path(data).read_text().splitlines()[0])

# %% [markdown]
# This is the loop of `python -m internvl.train`, without its checkpoints and logs. `adapt` splits the weights into
# those that are trained and those that are frozen; samples are packed into rows in which none sees another.

# %%
one_device = mesh.make(devices=jax.devices()[:1])


def fit(recipe, weights, data):
  """(weights after recipe.steps updates on a file, the loss of each step)."""
  everywhere = jax.NamedSharding(one_device, jax.P())
  adapted = sft.adapt(recipe, config, weights)
  trained, frozen = jax.device_put(adapted, everywhere)
  state = steps.init_state(trained, sft.optimizer(recipe, config))
  places = jax.tree.map(lambda leaf: leaf.sharding, state)
  step = sft.make_step(recipe, config, places=places)
  examples = Examples(Rows(data), processor)
  batches = packing.batches([examples], recipe, shares=[1.0])
  losses = []
  with jax.set_mesh(one_device):
    for i in range(recipe.steps):
      rows = mesh.to_global(next(batches), one_device)
      batch = packing.batch(rows)
      state, metrics = step(state, frozen, batch, jax.random.key(i))
      losses.append(float(metrics['loss']))
  return steps.merge(state.params, frozen), losses


trained, losses = fit(recipe, weights, data)
folder = work / 'digits'
export.export(folder, config, trained, processor)

plt.figure(figsize=(6, 2.6))
plt.plot(losses)
plt.xlabel('step')
plt.ylabel('loss (nats per token)')
plt.title('Training from random weights')
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Ask it
#
# `chat` takes OpenAI-style messages and the images in the order of their `<image>` marks. It takes one conversation
# or a list. None of these scans was in the training data.

# %%
config, weights = internvl.load(folder, dtype='float32')
heldout = digits.scans('heldout')


def ask(model, question, rows):
  """The answers of a model to one question about each of the held-out scans `rows`."""
  message = {'role': 'user', 'content': f'<image>\n{question}'}
  talks = [[message]] * len(rows)
  images = [[Image.fromarray(heldout.pixels[row])] for row in rows]
  return internvl.chat(model, config, processor, talks, images=images, max_new_tokens=8)


def gallery(question, answers, expected):
  """The first ten held-out scans, each above the model's answer: green where it is right."""
  right = [said == answer for said, answer in zip(answers, expected)]
  _, axes = plt.subplots(1, 10, figsize=(10, 1.6))
  for row, axis in enumerate(axes):
    color = 'tab:green' if right[row] else 'tab:red'
    axis.imshow(heldout.pixels[row], interpolation='nearest')
    axis.set_axis_off()
    axis.set_title(answers[row], color=color, y=-0.35)
  plt.suptitle(f'{sum(right)} of {len(right)} right: “{question}”', y=1.05)
  plt.show()


ready = internvl.for_decoding(weights)  # the layout in which decoding is fastest
rows = range(100)
labels = [int(heldout.labels[row]) for row in rows]
for question, answer in QUESTIONS.items():
  answers = ask(ready, question, rows)
  expected = [answer(label) for label in labels]
  gallery(question, answers, expected)

# %% [markdown]
# Answers also come in pieces as they are decoded:

# %%
message = [{'role': 'user', 'content': '<image>\nEven or odd?'}]
image = Image.fromarray(heldout.pixels[0])
for piece in internvl.chat(ready, config, processor, message, images=[image], max_new_tokens=8, stream=True):
  print(repr(piece), end=' ')

# %% [markdown]
# ## Shard it over eight devices
#
# A mesh names the axes: `data` splits the batch and spreads each weight (FSDP), `model` splits matrices (tensor
# parallelism). `load` puts each shard on its device while it reads the file. The program stays the same: XLA inserts
# the communication.

# %%
inputs = processor(message, [image])
tokens = np.tile(inputs.tokens, (8, 1))
pixels = np.tile(inputs.pixels, (8, 1, 1, 1))


@jax.jit
def logits(weights, tokens, pixels):
  """float32 [batch, time, vocab]."""
  return internvl.apply(weights, config, tokens, pixels=pixels).logits


on_one = logits(weights, tokens, pixels)
place = mesh.make(data=2, model=4)
_, sharded = internvl.load(folder, mesh=place, dtype='float32')
with jax.set_mesh(place):
  on_eight = logits(sharded, *mesh.to_global((tokens, pixels), place))


def largest_difference(a, b):
  """The largest absolute difference of two arrays, which may be on different devices."""
  return np.abs(np.asarray(a) - np.asarray(b)).max()


difference = largest_difference(on_eight, on_one)
print('largest difference of logits:', difference)
print('largest logit:               ', np.abs(np.asarray(on_one)).max())
assert difference < 1e-3


# %%
def owners(w):
  """For each element of a matrix, the number of the first device that holds it."""
  owner = np.full(w.shape, -1)
  shards = w.sharding.devices_indices_map(w.shape)
  for device, index in reversed(shards.items()):
    owner[index] = device.id
  return owner


shown = {
  'embedding [vocab, width]': sharded.language.embed,
  'MLP up, layer 0 [width, hidden]': sharded.language.blocks.mlp.up,
  'vision MLP up, layer 0': sharded.vision.blocks.up,
}
_, axes = plt.subplots(1, len(shown), figsize=(10, 2.6))
for axis, (name, w) in zip(axes, shown.items()):
  owner = owners(w)
  if owner.ndim == 3:
    owner = owner[0]  # of layer 0
  picture = axis.imshow(owner, cmap='tab10', vmin=0, vmax=9, aspect='auto')
  axis.set_title(name, fontsize=10)
bar = plt.colorbar(picture, ax=axes, ticks=range(8), label='device')
bar.ax.set_ylim(-0.5, 7.5)
plt.show()

# %% [markdown]
# ## LoRA: a new skill in 4 % of the weights
#
# The base model stays frozen. Each attention and MLP matrix of the language model gets a correction of rank 4, and
# only these corrections are trained: to answer in words. The loop is the one above, with another recipe.

# %%
lora = dataclasses.replace(
  recipe,
  steps=40,
  lora=dataclasses.replace(recipe.lora, rank=4),
  optim=Optim('adamw', lr=1e-2, warmup_steps=3),
)
adapters, frozen = sft.adapt(lora, config, weights)
print(f'{sum(leaf.size for leaf in jax.tree.leaves(adapters)):,} trained')
print(f'{sum(leaf.size for leaf in jax.tree.leaves(frozen)):,} frozen')

words = write('words', 'train', {'In words?': lambda digit: WORDS[digit]}, 1437)
adapted, losses = fit(lora, weights, words)
print(f'loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last')

# %% [markdown]
# The adapted weights are an ordinary tree: the same functions accept them. `fold` adds the corrections into the base,
# which gives a plain model with the same logits.

# %%
merged = params.fold(adapted)
inputs = processor([{'role': 'user', 'content': '<image>\nIn words?'}], [image])
question = (inputs.tokens[None], inputs.pixels)
difference = largest_difference(logits(adapted, *question), logits(merged, *question))
print('largest difference of logits, adapters against folded:', difference)
assert difference < 1e-3

answers = ask(internvl.for_decoding(merged), 'In words?', rows)
gallery('In words?', answers, [WORDS[label] for label in labels])

# %% [markdown]
# ## Int8: the language model's matrices in under a third of the bytes
#
# `to_int8` rounds in groups of up to 128 numbers with a scale each. A quantised weight is a leaf like any other:
# replace it, and everything above still runs.

# %%
MATRICES = r'language\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'
small = params.map_weights(lambda _, w: params.to_int8(w), weights, MATRICES)


def megabytes(tree):
  """Size of the language model's blocks."""
  leaves = jax.tree.leaves(tree.language.blocks)
  return sum(leaf.nbytes for leaf in leaves) / 1e6


sizes = {
  'float32': megabytes(weights),
  'bfloat16': megabytes(params.cast(weights, jnp.bfloat16)),
  'int8': megabytes(small),
}
full = np.asarray(logits(weights, tokens, pixels))[0]
rounded = np.asarray(logits(small, tokens, pixels))[0]

_, (left, middle) = plt.subplots(1, 2, figsize=(9, 3))
left.bar(sizes.keys(), sizes.values(), color=['tab:gray', 'tab:blue', 'tab:green'])
left.set_ylabel('blocks of the language model, MB')
middle.plot(full.ravel(), rounded.ravel(), '.', markersize=2)
middle.axline((0, 0), slope=1, color='black', linewidth=0.7)
middle.set_xlabel('logits, float32')
middle.set_ylabel('logits, int8')
plt.tight_layout()
plt.show()

# %%
before = ask(ready, 'Which digit?', rows)
after = ask(internvl.for_decoding(small), 'Which digit?', rows)
squared_error = np.mean((rounded - full) ** 2)
error = np.sqrt(squared_error / np.var(full))
same = sum(a == b for a, b in zip(before, after))
print(f'relative error of the logits: {error:.4f}')
print(f'same answer for {same} of {len(rows)} scans')
