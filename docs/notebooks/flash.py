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
# # Flash: fewer image tokens where a page is empty
#
# InternVL3.5-Flash has a router that decides for each image tile whether a quarter of its tokens is enough. Here a tiny
# Flash model routes pages of text. Nothing is downloaded; two CPU cores need about a minute.

# %%
import os

# Quick compilation, since the model is tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from IPython.display import display
from PIL import Image, ImageDraw, ImageFont

import internvl
from core import mesh
from internvl.flash import overlay, router, routing
from internvl.inputs.processor_config import ProcessorConfig
from internvl.plan import prefill

tiny = internvl.CONFIGS['tiny-flash']
tower = dataclasses.replace(tiny.vision, image_size=64, patch=8)  # 8×8 patches a tile
config = dataclasses.replace(tiny, vision=tower, flash=router.Config(relative=0.6, absolute=0.5))
constants = ProcessorConfig(
  image_size=64,
  tokens_per_tile=config.tokens_per_tile,
  max_tiles=12,
  system='',
)
processor = internvl.Processor.over_bytes(constants)
config = dataclasses.replace(config, image_token=processor.image_id)
params = internvl.init(jax.random.key(0), config)
print(f'{config.tokens_per_tile} image tokens a tile, {config.compact_tokens} when it is compressed')

# %% [markdown]
# ## Pages
#
# Four by three tiles. Paragraphs cover some of them; the others are blank paper with a little grain. Each page has its
# own colour.

# %%
LINES = ('the sum of', 'is that it', 'was for on', 'are as with', 'his or they', 'from this', 'be at one')
FONT = ImageFont.load_default(9)
INK = (20, 20, 40)
SIDE = 64  # pixels of a tile


def page(seed: int) -> Image.Image:
  """A page of text on tinted paper; about half of its twelve tiles are empty."""
  rng = np.random.default_rng(seed)
  paper = tuple(rng.integers(170, 256, 3).tolist())
  image = Image.new('RGB', (4 * SIDE, 3 * SIDE), paper)
  pen = ImageDraw.Draw(image)
  for column in range(4):
    for row in range(3):
      if rng.random() < 0.5:
        continue
      for line in range(6):
        left = column * SIDE + 3
        top = row * SIDE + 2 + 10 * line
        pen.text((left, top), rng.choice(LINES), fill=INK, font=FONT)
  pixels = np.asarray(image)
  grain = rng.integers(-2, 3, (3 * SIDE, 4 * SIDE, 1))
  grained = np.clip(pixels + grain, 0, 255)
  return Image.fromarray(grained.astype(np.uint8))


def inputs(image: Image.Image) -> internvl.Inputs:
  """The prompt that shows a page, tokenized, with its tiles."""
  message = {'role': 'user', 'content': '<image>\nRead it.'}
  return processor([message], [image])


def ink(pixels: np.ndarray) -> np.ndarray:
  """Spread of brightness in each tile: 0 on empty paper."""
  brightness = pixels.mean(-1)
  return brightness.std((1, 2))


# %% [markdown]
# ## A router
#
# ViCO trains the router on how much the language model's loss grows when a tile is compressed. This notebook needs no
# language model: a tile counts as "compressible" if it has no ink. Only the weights in `router.TRAINED` learn; the
# tower stays frozen, as in ViCO, here at its random values.

# %%
pages = [inputs(page(seed)) for seed in range(64)]
tiles = np.concatenate([x.pixels for x in pages])
labels = jnp.asarray(ink(tiles) >= 0.2, jnp.int32)  # 0: may be compressed, 1: must not be
whole_batches = len(tiles) // 8 * 8
features = routing.patches(params, config, tiles[:whole_batches])
labels = labels[:whole_batches]
optimizer = optax.adam(1e-3)


@jax.jit
def step(weights, state, batch, targets):
  """(weights, optimiser state, loss) after one update on a batch of tiles."""

  def loss(weights):
    logits = router.logits(weights, batch)
    by_tile = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return by_tile.mean()

  value, gradient = jax.value_and_grad(loss)(weights)
  updates, state = optimizer.update(gradient, state)
  weights = optax.apply_updates(weights, updates)
  return weights, state, value


weights = params.router
state = optimizer.init(weights)
rng = np.random.default_rng(0)
losses = []
for _ in range(120):
  chosen = rng.integers(0, len(features), 64)
  weights, state, value = step(weights, state, features[chosen], labels[chosen])
  losses.append(float(value))
params = params.replace(router=weights)
print(f'cross entropy: {losses[0]:.2f} at first, {np.mean(losses[-10:]):.3f} at last')

# %% [markdown]
# ## Which tiles are compressed
#
# A page that the router was not trained on. Tinted tiles get a quarter of the tokens; `p` is the router's score. The
# last tile is the thumbnail of the whole page.

# %%
x = inputs(page(1000))
patches = routing.patches(params, config, x.pixels)
decided = {}
for mode in routing.CHOICES:
  (decision,) = routing.route(params, config, [x], mode, features=patches)
  print(f'{mode:9}{decision.summary()}')
  decided[mode] = decision
picture = overlay.draw(x, decided['absolute'], constants)
display(picture.quantize(48))

# %% [markdown]
# `auto` is the published rule, here with the 0.6 quantile: at most 5 of 13 tiles can be above it. A tile must be
# strictly above: on an empty page, where all tiles score the same, nothing is compressed. `absolute` looks at each tile
# alone.

# %%
blank = inputs(Image.new('RGB', (4 * SIDE, 3 * SIDE), 'white'))
patches = routing.patches(params, config, blank.pixels)
for mode in ('auto', 'absolute'):
  (decision,) = routing.route(params, config, [blank], mode, features=patches)
  print(f'{mode:9}{decision.summary()}')

# %% [markdown]
# ## The prompt
#
# The prompt is laid out in full, then shortened: a compressed tile keeps only its first slots. `tile_tokens` tells the
# model how many each tile has. If no tile is compressed, the logits are those of the base model, bit for bit.

# %%
short = routing.shorten(x, decided['absolute'], config.image_token)
print(f'{len(x.tokens)} tokens become {len(short.tokens)}; tokens of each tile: {short.tile_tokens.tolist()}')
apply = jax.jit(internvl.apply, static_argnums=1)
out = apply(params, config, short.tokens[None], pixels=short.pixels, tile_tokens=short.tile_tokens)
whole = apply(params, config, x.tokens[None], pixels=x.pixels, tile_tokens=x.tile_tokens)
base_config = dataclasses.replace(config, flash=None)
base_params = params.replace(compact=None, router=None)
base = apply(base_params, base_config, x.tokens[None], pixels=x.pixels)
same = bool((whole.logits == base.logits).all())
print(f'logits {out.logits.shape} instead of {whole.logits.shape}')
print(f'none compressed is the base model: {same}')

# %% [markdown]
# ## What it saves at a real size
#
# FLOPs until the first token of `8B-Flash`, for an image of 12 tiles with its thumbnail and a short question. The
# vision tower reads every tile whole, so its share stays.

# %%
large = internvl.CONFIGS['8B-Flash']
place = mesh.make(devices=jax.devices()[:1])
counts = np.arange(14)
work: dict[str, list[float]] = {}
for compressed in counts:
  tokens = prefill.prompt_tokens(large, tiles=13, compressed=int(compressed), text=64)
  for part in prefill.parts(large, batch=1, tiles=13, tokens=tokens):
    teraflops = prefill.flops(part, place) / 1e12
    work.setdefault(part.name, []).append(teraflops)
shown = {name: values for name, values in work.items() if max(values) > 0.1}
fig, ax = plt.subplots(figsize=(6, 3.2), layout='constrained')
ax.stackplot(counts, *shown.values(), labels=list(shown))
ax.set(xlabel='compressed tiles of 13', ylabel='TFLOPs until the first token', xlim=(0, 13))
ax.legend(loc='upper right', fontsize=8)
plt.show()
total = np.sum(list(work.values()), 0)
fewer = total[0] / total
print(f'6 of 13 tiles: {fewer[6]:.2f} times fewer; all: {fewer[13]:.2f} times fewer')
