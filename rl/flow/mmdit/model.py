"""The transformer: the velocity of noisy latents at a time, given text.

B batch   T text tokens   Y, X rows and columns of latents   C channels   D width
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from core import tap as tap_lib
from core.layers import sinusoids
from core.mesh import RULES
from core.params import einsum
from core.tap import Tap, walk_keeping
from rl.flow.mmdit import positions
from rl.flow.mmdit.blocks import Context, Taps, joint_block, linear, modulated, modulation, single_block, two_layers
from rl.flow.mmdit.config import TIME_WIDTH, Config
from rl.flow.mmdit.params import Params

JOINT_STACKS = ('dual', 'joint', 'last')
STREAM_SITES = ('resid_in', 'attn_in', 'attn_out', 'mlp_in', 'mlp_out', 'resid_out')
ATTENTION_SITES = ('q', 'k', 'v', 'scores', 'pattern', 'z')
SINGLE_SITES = ('resid_in', 'attn_in', *ATTENTION_SITES, 'mlp_out', 'resid_out')
SITES = (
  *(f'{stack}.{stream}.{site}' for stack in JOINT_STACKS for stream in ('text', 'image') for site in STREAM_SITES),
  *(f'{stack}.{site}' for stack in JOINT_STACKS for site in ATTENTION_SITES),
  *(f'dual.own.{site}' for site in ATTENTION_SITES),
  *(f'single.{site}' for site in SINGLE_SITES),
)
TIME_SCALE = 1000.0  # times and guidance scales are multiplied by it before their sinusoids


@struct.dataclass
class Output:
  """velocity: [B, Y, X, C], in the dtype of the weights. kept: activations by site."""

  velocity: jax.Array
  kept: dict


def condition(
  params: Params, config: Config, time: jax.Array, pooled: jax.Array, guidance: jax.Array | None
) -> jax.Array:
  """The condition [B, D] of every modulation: of time [B], pooled text [B, P], and a guidance scale [B] or None."""

  def embed(values, layers):
    waves = sinusoids(TIME_SCALE * values.astype(jnp.float32), TIME_WIDTH)
    return two_layers(waves.astype(layers.up.bias.dtype), layers)

  total = embed(time, params.time)
  if config.guidance:
    total = total + embed(guidance, params.guidance)
  return total + two_layers(pooled.astype(params.pooled.up.bias.dtype), params.pooled)


def _check(config: Config, latents, time, context, pooled, guidance) -> None:
  c = config
  rows = latents.shape[0]
  fits = latents.ndim == 4 and latents.shape[3] == c.channels
  if not fits or latents.shape[1] % c.patch or latents.shape[2] % c.patch:
    raise ValueError(
      f'latents {latents.shape}: expected [batch, rows, columns, {c.channels}], sides multiples of {c.patch}'
    )
  if context.ndim != 3 or context.shape[::2] != (rows, c.text):
    raise ValueError(f'context {context.shape}: expected [{rows}, tokens, {c.text}]')
  if pooled.shape != (rows, c.pooled):
    raise ValueError(f'pooled {pooled.shape}: expected [{rows}, {c.pooled}]')
  if time.shape != (rows,):
    raise ValueError(f'time {time.shape}: expected [{rows}]')
  if (guidance is not None) != c.guidance:
    needs = 'needs a guidance scale for each row' if c.guidance else 'has no guidance input; run it twice instead'
    raise ValueError(f'guidance={guidance}: this model {needs}')
  if guidance is not None and guidance.shape != (rows,):
    raise ValueError(f'guidance {guidance.shape}: expected [{rows}]')


def _patches(params: Params, config: Config, latents: jax.Array) -> jax.Array:
  """Patches [B, S, D] by rows."""
  c = config
  batch, height, width, _ = latents.shape
  rows = height // c.patch
  columns = width // c.patch
  blocks = latents.reshape(batch, rows, c.patch, columns, c.patch, c.channels)
  blocks = blocks.astype(params.patch.bias.dtype)
  x = einsum('brpsqc,pqcd->brsd', blocks, params.patch.weight) + params.patch.bias
  x = x.reshape(batch, rows * columns, -1)
  if c.table is None:
    return x
  table = jax.lax.stop_gradient(params.positions)
  return x + positions.crop(table, rows, columns)


def _rope(config: Config, text: int, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array] | None:
  """Rotary tables for `text` tokens and latents of `shape`; None for a model with a table of positions."""
  if config.axes is None:
    return None
  rows = shape[1] // config.patch
  columns = shape[2] // config.patch
  return positions.rope(text, rows, columns, config.axes, config.theta)


def _joint_stack(name: str, blocks, text, image, ctx: Context, *, edit, keep, remat_policy):
  """(text, image, kept) after one stack of joint blocks."""

  def layer(streams, i, block):
    tapped = lambda part: Tap(edit, keep, i, f'{name}.{part}')
    taps = Taps(text=tapped('text.'), image=tapped('image.'), both=tapped(''), own=tapped('own.'))
    streams = joint_block(*streams, block, taps, ctx)
    kept = taps.text.kept | taps.image.kept | taps.both.kept | taps.own.kept
    return streams, (kept, ())

  depth = jax.tree.leaves(blocks)[0].shape[0]
  options = {'prefix': f'{name}.', 'remat_policy': remat_policy}
  (text, image), kept, _ = walk_keeping(layer, keep, depth, (text, image), blocks, **options)
  return text, image, kept


def _single_stack(blocks, text, image, ctx: Context, *, edit, keep, remat_policy):
  """(image, kept) after the stack of single-stream blocks."""

  def layer(x, i, block):
    tap = Tap(edit, keep, i, 'single.')
    return single_block(x, block, tap, ctx), (tap.kept, ())

  x = jnp.concatenate([text, image], 1)
  depth = jax.tree.leaves(blocks)[0].shape[0]
  x, kept, _ = walk_keeping(layer, keep, depth, x, blocks, prefix='single.', remat_policy=remat_policy)
  return x[:, text.shape[1] :], kept


def _head(params: Params, config: Config, image: jax.Array, ctx: Context, shape: tuple[int, ...]) -> jax.Array:
  """The velocity, of the latents' `shape`, from the image stream [B, S, D]."""
  c = config
  by = modulation(ctx.active, params.modulation)
  normed = modulated(image, by, 'attn', c.eps)
  batch, height, width, _ = shape
  grid = normed.reshape(batch, height // c.patch, width // c.patch, -1)
  patches = einsum('brsd,dpqc->brpsqc', grid, params.out.weight)
  patches = patches + params.out.bias[:, None]
  return patches.reshape(shape)


def apply(
  params: Params,
  config: Config,
  latents: jax.Array,
  time: jax.Array,
  context: jax.Array,
  pooled: jax.Array,
  *,
  guidance: jax.Array | None = None,
  edit: Callable | None = None,
  keep: tuple = (),
  rules=RULES,
  remat_policy: str | None = None,
) -> Output:
  """The velocity dx/dt [B, Y, X, C] of latents x_t [B, Y, X, C] at time [B], from 0 (data) to 1 (noise).

  context: text tokens [B, T, text width]. pooled: [B, pooled width]. guidance: scale [B] of a model that was distilled
  with it, as published (3.5); None for all others. No token is masked. Y and X are multiples of the patch side.
  edit, keep: as in `core.tap`; SITES lists the sites. remat_policy: of each block, to train (`core.remat`).
  Raises ValueError for shapes that do not fit the model, and for a missing or needless guidance.
  """
  tap_lib.check(keep, SITES)
  _check(config, latents, time, context, pooled, guidance)
  active = jax.nn.silu(condition(params, config, time, pooled, guidance))
  rope = _rope(config, context.shape[1], latents.shape)
  ctx = Context(config=config, active=active, rope=rope, rules=rules)
  image = _patches(params, config, latents)
  text = linear(context.astype(image.dtype), params.context)
  options = {'edit': edit, 'keep': keep, 'remat_policy': remat_policy}
  kept = {}
  for name in JOINT_STACKS:
    blocks = getattr(params, name)
    if blocks is not None:
      text, image, of_stack = _joint_stack(name, blocks, text, image, ctx, **options)
      kept |= of_stack
  if params.single is not None:
    image, of_stack = _single_stack(params.single, text, image, ctx, **options)
    kept |= of_stack
  return Output(velocity=_head(params, config, image, ctx, latents.shape), kept=kept)
