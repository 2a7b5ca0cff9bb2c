"""One TPU kernel for the whole solver loop: a frame's latents never leave VMEM, and part of the weights stays there.

Grid: solver steps × layers × tiles of the feed-forward. The products of a tile need [R, D] and [D, tile] only, so
weights stream across layer and step boundaries without a gap.

N solver steps   L layers   B padded rows   R those of both branches   C latent   D width   F feed-forward
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels import chips
from kernels.head import layers, tpu_matrices, xla
from kernels.head.arguments import Guidance, Params, Steps
from kernels.head.solver import advance
from kernels.head.tiles import Tiles, choose
from kernels.head.tpu_matrices import Matrices, dot, product

MOST_ROWS = 256  # more make the products compute-bound, where residency gains nothing
ROWS = {2: 16, 4: 8}  # rows of a register tile, by bytes of an element
BRANCH_ROWS = 8  # of float32, so that the two branches' velocities are split at a whole register tile


def refuse(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  guidance: Guidance | None,
  *,
  eps: float,
  tiles: Tiles | None = None,
) -> str | None:
  """Why this kernel cannot compute these arguments, or None."""
  if isinstance(weights.blocks, tuple):
    return 'the TPU kernel takes stacked layers, got a tuple'
  dtype = weights.noise.dtype
  if dtype not in (jnp.bfloat16, jnp.float32):
    return f'the TPU kernel takes bfloat16 and float32 weights, got {dtype}'
  reason = tpu_matrices.refuse(weights.blocks)
  if reason is not None:
    return reason
  rows = noise.shape[0] * (1 if guidance is None else 2)
  if rows > MOST_ROWS:
    return f'the TPU kernel takes at most {MOST_ROWS} rows of both branches, got {rows}'
  if tiles is None and choose_tiles(weights) is None:
    return f'no tile of weights {tpu_matrices.shape(weights.blocks)} fits into VMEM'
  return chips.refuse_partitioning()


def decline(weights: Params, *others, eps: float) -> str | None:
  """Why XLA's form is expected to be as fast, or None."""
  tiles = choose_tiles(weights)
  if tiles.resident:
    return None
  return 'no weight stays in VMEM, so this kernel reads as much as XLA'


def choose_tiles(weights: Params) -> Tiles | None:
  """How the feed-forward is cut for the VMEM of the mesh's chip; None if nothing fits."""
  blocks = weights.blocks
  room = chips.vmem() - tpu_matrices.scale_bytes(blocks)
  return choose(*tpu_matrices.shape(blocks), tpu_matrices.itemsize(blocks), room)


class Fixed(NamedTuple):
  """References that stay in place: noise [B, C], scale [B, C] or None, into [C, D], norm [L, 1, D], out [D, C]."""

  noise: Any
  scale: Any
  into: Any
  norm: Any
  out: Any


class Carried(NamedTuple):
  """Scratch that lives across grid steps: x, x0 [B, C]; u and acc [R, D] in float32; m [R, D]."""

  x: Any
  x0: Any
  u: Any
  acc: Any
  m: Any


def run(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  guidance: Guidance | None,
  *,
  eps: float,
  tiles: Tiles | None = None,
  interpret: Any = False,
) -> jax.Array:
  """As `kernels.diffusion_head`; weights bfloat16 or float32, feed-forwards also int8, layers stacked.

  tiles: how the weights are cut, by default as many resident as the VMEM of the mesh's chip holds. The hidden state is
  float32 throughout, where the published order rounds it to the weights' dtype.
  """
  tiles = tiles or choose_tiles(weights)
  rows = noise.shape[0]
  noise, condition, guidance = _padded(noise, condition, guidance, weights.noise.dtype)
  active = xla.modulators(weights, condition, steps, guidance)
  of_layers = jnp.einsum('nrd,ldpe->nlpre', active, weights.blocks.modulation)
  of_output = layers.modulate(active, weights.modulation)
  fixed = Fixed(
    noise=noise.astype(jnp.float32),
    scale=None if guidance is None else jnp.broadcast_to(guidance.scale[:, None], noise.shape),
    into=weights.noise,
    norm=weights.blocks.norm[:, None],
    out=weights.out,
  )
  matrices = tpu_matrices.matrices(weights.blocks, tiles)
  coefficients = jnp.stack([steps.alpha, steps.sigma, steps.decay, steps.gain, steps.slope])
  call = _call(matrices, of_output.shape, fixed, tiles, noise.dtype, eps, interpret)
  latents = call(coefficients, fixed, of_layers, of_output, matrices)
  return latents[:rows].astype(noise.dtype)


def _padded(noise: jax.Array, condition: jax.Array, guidance: Guidance | None, dtype):
  """Rows of zeros at the end, so that all rows fill register tiles; the scale as float32 [B]."""
  unit = ROWS[dtype.itemsize] if guidance is None else BRANCH_ROWS
  rows = noise.shape[0]
  more = -rows % unit
  below = ((0, more), (0, 0))
  noise = jnp.pad(noise, below)
  condition = jnp.pad(condition, below)
  if guidance is None:
    return noise, condition, None
  given = jnp.asarray(guidance.scale, jnp.float32).reshape(-1)
  scale = jnp.pad(jnp.broadcast_to(given, rows), (0, more))
  negative = jnp.pad(guidance.negative, below)
  return noise, condition, Guidance(scale=scale, negative=negative)


def _call(matrices: Matrices, modulation: tuple, fixed: Fixed, tiles: Tiles, dtype: Any, eps: float, interpret: Any):
  """The `pallas_call` for a final modulation of shape [N, 2, R, D]."""
  first, *_ = jax.tree.leaves(matrices)
  depth, width, mlp = first.shape
  count, _, rows, _ = modulation
  branch = fixed.noise.shape
  whole = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
  per_layer = pl.BlockSpec((1, 1, 3, rows, width), lambda n, l, s: (n, l, 0, 0, 0))
  per_step = pl.BlockSpec((1, 2, rows, width), lambda n, l, s: (n, 0, 0, 0))
  wide = pltpu.VMEM((rows, width), jnp.float32)
  narrow = pltpu.VMEM(branch, jnp.float32)
  # Inputs of int8 weights are scaled before they are rounded.
  inputs = pltpu.VMEM((rows, width), jnp.float32 if matrices.scales else fixed.into.dtype)
  scratch = Carried(x=narrow, x0=narrow, u=wide, acc=wide, m=inputs)
  products = 2 * count * rows * depth * 3 * width * mlp
  return pl.pallas_call(
    functools.partial(_kernel, tiles=tiles, dtype=dtype, eps=eps),
    grid=(count, depth, tiles.count),
    in_specs=[
      pl.BlockSpec(memory_space=pltpu.SMEM),
      jax.tree.map(lambda _: whole(), fixed),
      per_layer,
      per_step,
      tpu_matrices.specs(matrices, tiles),
    ],
    out_specs=whole(),
    out_shape=jax.ShapeDtypeStruct(branch, jnp.float32),
    scratch_shapes=[scratch],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('arbitrary',) * 3,
      vmem_limit_bytes=chips.vmem(),
    ),
    cost_estimate=pl.CostEstimate(
      flops=products,
      transcendentals=count * rows * depth * mlp,
      bytes_accessed=tiles.traffic(depth, width, first.dtype.itemsize, count),
    ),
    name='diffusion_head',
    interpret=interpret,
  )


class _Refs(NamedTuple):
  """All references of a grid step; of_layer: [1, 1, 3, R, D]; of_output: [1, 2, R, D]."""

  table: Any
  fixed: Fixed
  of_layer: Any
  of_output: Any
  matrices: Matrices
  latents: Any
  carried: Carried


def _kernel(*refs, tiles: Tiles, dtype, eps: float):
  refs = _Refs(*refs)
  step, layer, tile = (pl.program_id(axis) for axis in range(3))
  last_step, last_layer, last_tile = (pl.num_programs(axis) - 1 for axis in range(3))
  starts_step = (layer == 0) & (tile == 0)
  ends_step = (layer == last_layer) & (tile == last_tile)
  pl.when(starts_step & (step == 0))(functools.partial(_start_run, refs))
  pl.when(starts_step)(functools.partial(_start_step, refs))
  pl.when(tile == 0)(functools.partial(_start_layer, refs, layer, eps))
  _multiply(refs, layer, tile, tiles)
  pl.when(tile == last_tile)(functools.partial(_end_layer, refs))
  pl.when(ends_step)(functools.partial(_end_step, refs, step, dtype, eps))
  pl.when(ends_step & (step == last_step))(functools.partial(_end_run, refs))


def _start_run(refs: _Refs) -> None:
  refs.carried.x[...] = refs.fixed.noise[...]
  refs.carried.x0[...] = jnp.zeros_like(refs.carried.x0)


def _start_step(refs: _Refs) -> None:
  """The noisy latents become the hidden state of both branches."""
  x = refs.carried.x[...]
  both = x if refs.fixed.scale is None else jnp.concatenate([x, x])
  refs.carried.u[...] = product(both, refs.fixed.into[...])


def _start_layer(refs: _Refs, layer, eps: float) -> None:
  """The layer's modulated input."""
  carried = refs.carried
  vectors = refs.of_layer[0, 0].astype(jnp.float32)
  norm = refs.fixed.norm[layer].astype(jnp.float32)
  scaled = layers.normed(carried.u[...], eps) * norm
  modulated = scaled * (1 + vectors[1]) + vectors[0]
  carried.m[...] = modulated.astype(carried.m.dtype)
  carried.acc[...] = jnp.zeros_like(carried.acc)


def _multiply(refs: _Refs, layer, tile, tiles: Tiles) -> None:
  """Adds the feed-forward of this grid step's columns."""
  carried = refs.carried
  dtype = refs.fixed.into.dtype
  for gate, up, down in tpu_matrices.blocks(refs.matrices, layer, tile, tiles):
    opened = jax.nn.silu(dot(carried.m[...], gate, dtype))
    hidden = opened * dot(carried.m[...], up, dtype)
    carried.acc[...] += dot(hidden, down, dtype)


def _end_layer(refs: _Refs) -> None:
  gate = refs.of_layer[0, 0, 2].astype(jnp.float32)
  refs.carried.u[...] += gate * refs.carried.acc[...]


def _end_step(refs: _Refs, step, dtype, eps: float) -> None:
  """The velocity of both branches, guided, and the solver's step."""
  carried = refs.carried
  vectors = refs.of_output[0].astype(jnp.float32)
  final = layers.normed(carried.u[...], eps) * (1 + vectors[1]) + vectors[0]
  velocity = product(final, refs.fixed.out[...])
  if refs.fixed.scale is not None:
    positive, negative = jnp.split(velocity, 2)
    velocity = negative + refs.fixed.scale[...] * (positive - negative)
  alpha, sigma, decay, gain, slope = (refs.table[row, step] for row in range(5))
  at = Steps(time=None, alpha=alpha, sigma=sigma, decay=decay, gain=gain, slope=slope)
  x, x0 = advance(at, carried.x[...].astype(dtype), carried.x0[...], velocity)
  carried.x[...] = x.astype(jnp.float32)
  carried.x0[...] = x0


def _end_run(refs: _Refs) -> None:
  refs.latents[...] = refs.carried.x[...]
