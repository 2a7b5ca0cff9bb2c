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
# InternVL3.5-Flash has a router that looks at each image tile and says whether a quarter of its tokens will do. Here a
# tiny Flash model routes pages of text. Nothing is downloaded; two CPU cores need about a minute.

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
# Four by three tiles. Paragraphs cover some of them; the others are paper, with a little grain, of another colour on
# each page.

# %%
LINES = ('the sum of', 'is that it', 'was for on', 'are as with', 'his or they', 'from this', 'be at one')
FONT = ImageFont.load_default(9)


def page(seed: int) -> Image.Image:
  """A page of text on tinted paper; about half of its twelve tiles are empty."""
  rng = np.random.default_rng(seed)
  paper = tuple(rng.integers(170, 256, 3).tolist())
  image = Image.new('RGB', (256, 192), paper)
  pen = ImageDraw.Draw(image)
  for column in range(4):
    for row in range(3):
      if rng.random() < 0.5:
        continue
      for line in range(6):
        corner = (column * 64 + 3, row * 64 + 2 + 10 * line)
        pen.text(corner, rng.choice(LINES), fill=(20, 20, 40), font=FONT)
  grain = rng.integers(-2, 3, (192, 256, 1))
  return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def inputs(image: Image.Image) -> internvl.Inputs:
  """The prompt that shows a page, tokenized, with its tiles."""
  return processor([{'role': 'user', 'content': '<image>\nRead it.'}], [image])


def ink(pixels: np.ndarray) -> np.ndarray:
  """Spread of brightness in each tile: 0 on empty paper."""
  return pixels.mean(-1).std((1, 2))


# %% [markdown]
# ## A router
#
# ViCO trains the router on how much the language model's loss suffers when a tile is compressed. Here is a stand-in
# that needs no language model: a tile is "compressible" if it has no ink. Only the weights in `router.TRAINED` learn;
# the tower stays at its random values, as it would stay frozen.

# %%
pages = [inputs(page(seed)) for seed in range(64)]
tiles = np.concatenate([x.pixels for x in pages])
labels = jnp.asarray(ink(tiles) >= 0.2, jnp.int32)  # 0: may be compressed, 1: must not be
features = routing.patches(params, config, tiles[: len(tiles) // 8 * 8])
labels = labels[: len(features)]
optimizer = optax.adam(1e-3)


@jax.jit
def step(weights, state, batch, targets):
  """(weights, optimiser state, loss) after one update on a batch of tiles."""

  def loss(weights):
    logits = router.logits(weights, batch)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

  value, gradient = jax.value_and_grad(loss)(weights)
  updates, state = optimizer.update(gradient, state)
  return optax.apply_updates(weights, updates), state, value


weights, state = params.router, optimizer.init(params.router)
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
# A page that the router has not seen. Tinted tiles get a quarter of the tokens; `p` is the router's score. The last
# tile is the thumbnail of the whole page.

# %%
x = inputs(page(1000))
decided = {}
for mode in routing.CHOICES:
  patches = routing.patches(params, config, x.pixels)
  (decided[mode],) = routing.route(params, config, [x], mode, features=patches)
  print(f'{mode:9}{decided[mode].summary()}')
picture = overlay.draw(x, decided['absolute'], constants)
display(picture.quantize(48))

# %% [markdown]
# `auto` is the published rule, here with the 0.6 quantile: at most 5 of 13 tiles can be above it. A tile must be
# strictly above: on an empty page, where all tiles score the same, nothing is compressed. `absolute` looks at each tile
# alone.

# %%
blank = inputs(Image.new('RGB', (256, 192), 'white'))
patches = routing.patches(params, config, blank.pixels)
for mode in ('auto', 'absolute'):
  (decision,) = routing.route(params, config, [blank], mode, features=patches)
  print(f'{mode:9}{decision.summary()}')

# %% [markdown]
# ## The prompt
#
# The prompt is laid out in full, then shortened: of a compressed tile's slots the first stay. `tile_tokens` tells the
# model how many each tile has. With none compressed the logits are those of the base model, bit for bit.

# %%
short = routing.shorten(x, decided['absolute'], config.image_token)
print(f'{len(x.tokens)} tokens become {len(short.tokens)}; tokens of each tile: {short.tile_tokens.tolist()}')
apply = jax.jit(internvl.apply, static_argnums=1)
out = apply(params, config, short.tokens[None], pixels=short.pixels, tile_tokens=short.tile_tokens)
whole = apply(params, config, x.tokens[None], pixels=x.pixels, tile_tokens=x.tile_tokens)
base = dataclasses.replace(config, flash=None), params.replace(compact=None, router=None)
same = apply(base[1], base[0], x.tokens[None], pixels=x.pixels)
print(f'logits {out.logits.shape} instead of {whole.logits.shape}')
print(f'none compressed is the base model: {bool((whole.logits == same.logits).all())}')

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
    work.setdefault(part.name, []).append(prefill.flops(part, place) / 1e12)
shown = {name: values for name, values in work.items() if max(values) > 0.1}
fig, ax = plt.subplots(figsize=(6, 3.2), layout='constrained')
ax.stackplot(counts, *shown.values(), labels=list(shown))
ax.set(xlabel='compressed tiles of 13', ylabel='TFLOPs until the first token', xlim=(0, 13))
ax.legend(loc='upper right', fontsize=8)
plt.show()
total = np.sum(list(work.values()), 0)
print(f'6 of 13 tiles: {total[0] / total[6]:.2f} times fewer; all: {total[0] / total[13]:.2f} times fewer')
