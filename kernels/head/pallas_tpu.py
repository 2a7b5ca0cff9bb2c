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
from kernels.head import layers, xla
from kernels.head.arguments import Guidance, Params, Steps
from kernels.head.solver import advance
from kernels.head.tiles import Tiles, choose

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
  dtype = weights.blocks.gate.dtype
  if dtype not in (jnp.bfloat16, jnp.float32):
    return f'the TPU kernel takes bfloat16 and float32 weights, got {dtype}'
  rows = noise.shape[0] * (1 if guidance is None else 2)
  if rows > MOST_ROWS:
    return f'the TPU kernel takes at most {MOST_ROWS} rows of both branches, got {rows}'
  if tiles is None and _tiles(weights) is None:
    return f'no tile of weights {weights.blocks.gate.shape} fits into VMEM'
  return chips.refuse_partitioning()


def decline(weights: Params, *others, eps: float) -> str | None:
  """Why XLA's form is expected to be as fast, or None."""
  tiles = _tiles(weights)
  if tiles.resident:
    return None
  return 'no weight stays in VMEM, so this kernel reads as much as XLA'


def _tiles(weights: Params) -> Tiles | None:
  depth, width, mlp = weights.blocks.gate.shape
  return choose(depth, width, mlp, weights.blocks.gate.dtype.itemsize, chips.vmem())


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
  """As `kernels.diffusion_head`; weights bfloat16 or float32, layers stacked.

  tiles: how the weights are cut, by default as many resident as the VMEM of the mesh's chip holds. The hidden state is
  float32 throughout, where the published order rounds it to the weights' dtype.
  """
  tiles = tiles or _tiles(weights)
  rows = noise.shape[0]
  noise, condition, guidance = _padded(noise, condition, guidance, weights.blocks.gate.dtype)
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
  matrices = (weights.blocks.gate, weights.blocks.up, weights.blocks.down)
  coefficients = jnp.stack([steps.alpha, steps.sigma, steps.decay, steps.gain, steps.slope])
  call = _call(matrices[0].shape, of_output.shape, fixed, tiles, noise.dtype, eps, interpret)
  streamed = matrices if tiles.streamed else ()
  resident = matrices if tiles.resident else ()
  latents = call(coefficients, fixed, of_layers, of_output, streamed, resident)
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


def _call(shape: tuple, modulation: tuple, fixed: Fixed, tiles: Tiles, dtype, eps: float, interpret: Any):
  """The `pallas_call` for feed-forward matrices of `shape` [L, D, F] and a final modulation of [N, 2, R, D]."""
  depth, width, mlp = shape
  count, _, rows, _ = modulation
  branch = fixed.noise.shape
  weight = fixed.into.dtype
  whole = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
  per_layer = pl.BlockSpec((1, 1, 3, rows, width), lambda n, l, s: (n, l, 0, 0, 0))
  per_step = pl.BlockSpec((1, 2, rows, width), lambda n, l, s: (n, 0, 0, 0))
  streamed, resident = _matrix_specs(depth, width, tiles)
  wide = pltpu.VMEM((rows, width), jnp.float32)
  narrow = pltpu.VMEM(branch, jnp.float32)
  scratch = Carried(x=narrow, x0=narrow, u=wide, acc=wide, m=pltpu.VMEM((rows, width), weight))
  products = 2 * count * rows * depth * 3 * width * mlp
  return pl.pallas_call(
    functools.partial(_kernel, tiles=tiles, dtype=dtype, eps=eps),
    grid=(count, depth, tiles.count),
    in_specs=[
      pl.BlockSpec(memory_space=pltpu.SMEM),
      jax.tree.map(lambda _: whole(), fixed),
      per_layer,
      per_step,
      streamed,
      resident,
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
      bytes_accessed=tiles.traffic(depth, width, weight.itemsize, count),
    ),
    name='diffusion_head',
    interpret=interpret,
  )


def _matrix_specs(depth: int, width: int, tiles: Tiles) -> tuple[tuple, tuple]:
  """Block specs of (gate, up, down), streamed and resident; the resident columns come first in each layer."""
  before = tiles.count * tiles.resident
  streamed = ()
  resident = ()
  if tiles.streamed:
    first = before // tiles.streamed
    columns = pl.BlockSpec((1, width, tiles.streamed), lambda n, l, s: (l, 0, first + s))
    lines = pl.BlockSpec((1, tiles.streamed, width), lambda n, l, s: (l, first + s, 0))
    streamed = columns, columns, lines
  if tiles.resident:
    once = pl.Buffered(1)  # one copy: the block never changes
    columns = pl.BlockSpec((depth, width, before), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
    lines = pl.BlockSpec((depth, before, width), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
    resident = columns, columns, lines
  return streamed, resident


def _dot(x: jax.Array, weight: jax.Array) -> jax.Array:
  precision = jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None
  return jnp.dot(x.astype(weight.dtype), weight, preferred_element_type=jnp.float32, precision=precision)


class _Refs(NamedTuple):
  """All references of a grid step; of_layer: [1, 1, 3, R, D]; of_output: [1, 2, R, D]."""

  table: Any
  fixed: Fixed
  of_layer: Any
  of_output: Any
  streamed: tuple
  resident: tuple
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
  refs.carried.u[...] = _dot(both, refs.fixed.into[...])


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
  for gate, up, down in _parts(refs.streamed, refs.resident, layer, tile, tiles):
    opened = jax.nn.silu(_dot(carried.m[...], gate))
    hidden = opened * _dot(carried.m[...], up)
    carried.acc[...] += _dot(hidden, down)


def _end_layer(refs: _Refs) -> None:
  gate = refs.of_layer[0, 0, 2].astype(jnp.float32)
  refs.carried.u[...] += gate * refs.carried.acc[...]


def _end_step(refs: _Refs, step, dtype, eps: float) -> None:
  """The velocity of both branches, guided, and the solver's step."""
  carried = refs.carried
  vectors = refs.of_output[0].astype(jnp.float32)
  final = layers.normed(carried.u[...], eps) * (1 + vectors[1]) + vectors[0]
  velocity = _dot(final, refs.fixed.out[...])
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


def _parts(streamed: tuple, resident: tuple, layer, tile, tiles: Tiles) -> list[tuple]:
  """(gate, up, down) of the tiles that a grid step multiplies."""
  parts = []
  if streamed:
    parts.append(tuple(ref[0] for ref in streamed))
  if resident:
    gate, up, down = resident
    start = pl.multiple_of(tile * tiles.resident, tiles.resident)
    columns = pl.ds(start, tiles.resident)
    parts.append((gate[layer, :, columns], up[layer, :, columns], down[layer, columns, :]))
  return parts
