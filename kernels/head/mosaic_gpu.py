"""The feed-forward of a layer in two kernels for Hopper GPUs; the rest of the hoisted form is XLA's.

A decoding step multiplies few rows, so weights stream through shared memory once: TMA ahead of wgmma. The first kernel
gives silu(m·gate)·(m·up), the second its product with `down` in parts of F, which XLA adds where it adds the residual.

R rows   D width   F feed-forward   P parts
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import hopper
from kernels.head import xla
from kernels.head.arguments import MATRICES, Block, Guidance, Params, Steps
from kernels.hopper import ROWS
from kernels.int8 import Int8
from kernels.pieces import Streamed

LINES = 64  # of a weight in one slot: columns of the left factor
COLUMNS = 64  # of a weight that a thread block multiplies
SLOTS = 8  # of a ring: 192 KiB for gate and up


def refuse(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  guidance: Guidance | None,
  *,
  eps: float,
) -> str | None:
  """Why these kernels cannot compute these arguments, or None."""
  rows = noise.shape[0] * (1 if guidance is None else 2)
  block, *_ = jax.tree.leaves(weights.blocks, is_leaf=lambda x: isinstance(x, Block))
  if any(isinstance(getattr(block, name), (Int8, Streamed)) for name in MATRICES):
    return 'the GPU kernels take plain arrays: wgmma multiplies them from shared memory as TMA brings them'
  *_, width, mlp = block.gate.shape
  if rows > ROWS:
    return f'the GPU kernels take at most {ROWS} rows of both branches, got {rows}'
  if width % COLUMNS or mlp % COLUMNS:
    return f'the GPU kernels take widths of a multiple of {COLUMNS}, got {width} and {mlp}'
  return hopper.refuse(condition.dtype, block.gate.dtype)


def run(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  guidance: Guidance | None,
  *,
  eps: float,
  interpret: Any = None,
) -> jax.Array:
  """As `kernels.diffusion_head`, on a Hopper GPU."""
  by_kernels = functools.partial(feed_forward, interpret=interpret)
  return xla.run(weights, noise, condition, steps, guidance, eps=eps, feed_forward=by_kernels)


def feed_forward(m: jax.Array, block: Block, *, interpret: Any = None) -> jax.Array:
  """(silu(m·gate)·(m·up))·down of m [R, D]."""
  rows = m.shape[0]
  padded = jnp.pad(m, ((0, -rows % 8), (0, 0)))
  hidden = gated(padded, block.gate, block.up, interpret=interpret)
  parts = product(hidden, block.down, interpret=interpret)
  return parts.sum(0)[:rows].astype(m.dtype)


class _Shared(NamedTuple):
  """Shared memory: rings of left factors [Q, LINES] and of each weight [LINES, COLUMNS], and the result."""

  left: Any
  weights: tuple
  out: Any
  arrived: Any  # a barrier for each slot


def _shared(count: int, dtype, result) -> _Shared:
  """Of `count` weights of a type, and a result of another."""
  ring = hopper.tile((SLOTS, LINES, COLUMNS), dtype)
  return _Shared(
    left=hopper.tile((SLOTS, ROWS, LINES), dtype),
    weights=(ring,) * count,
    out=hopper.tile((ROWS, COLUMNS), result),
    arrived=plgpu.Barrier(num_arrivals=1 + count, num_barriers=SLOTS),
  )


def gated(m: jax.Array, gate: jax.Array, up: jax.Array, *, interpret: Any) -> jax.Array:
  """silu(m·gate)·(m·up), [R, F] in the type of m."""
  rows, width = m.shape
  mlp = gate.shape[1]
  kernel = plgpu.kernel(
    functools.partial(_gated_kernel, steps=width // LINES),
    out_type=jax.ShapeDtypeStruct((rows, mlp), m.dtype),
    scratch_types=[_shared(2, m.dtype, m.dtype)],
    grid=(mlp // COLUMNS,),
    grid_names=('columns',),
    compiler_params=hopper.PARAMS,
    interpret=interpret,
    kernel_name='head_gated',
  )
  return kernel(m, gate, up)


def _gated_kernel(m, gate, up, hidden, shared: _Shared, *, steps: int):
  columns = pl.ds(lax.axis_index('columns') * COLUMNS, COLUMNS)

  def body(opened, other):
    _stream(shared, m, (gate, up), (opened, other), columns, 0, steps)
    g = opened[...]
    active = g / (1 + jnp.exp(-g))
    shared.out[...] = (active * other[...]).astype(shared.out.dtype)

  shape = ROWS, COLUMNS
  pl.run_scoped(body, plgpu.ACC(shape, jnp.float32), plgpu.ACC(shape, jnp.float32))
  plgpu.commit_smem()
  rows = pl.ds(0, hidden.shape[0])
  plgpu.copy_smem_to_gmem(shared.out.at[rows], hidden.at[:, columns])
  plgpu.wait_smem_to_gmem(0)


def product(hidden: jax.Array, down: jax.Array, *, interpret: Any) -> jax.Array:
  """hidden [R, F] · down [F, D] in parts of F, float32 [P, R, D]: their sum is the product."""
  rows, mlp = hidden.shape
  width = down.shape[1]
  parts = _parts(mlp // LINES, blocks=width // COLUMNS)
  kernel = plgpu.kernel(
    functools.partial(_product_kernel, steps=mlp // LINES // parts),
    out_type=jax.ShapeDtypeStruct((parts, rows, width), jnp.float32),
    scratch_types=[_shared(1, hidden.dtype, jnp.float32)],
    grid=(width // COLUMNS, parts),
    grid_names=('columns', 'part'),
    compiler_params=hopper.PARAMS,
    interpret=interpret,
    kernel_name='head_product',
  )
  return kernel(hidden, down)


def _parts(steps: int, *, blocks: int) -> int:
  """The fewest equal parts of the steps that give a thread block to each multiprocessor, or as many as there are."""
  wanted = pl.cdiv(hopper.SMS, blocks)
  return next(n for n in range(min(wanted, steps), steps + 1) if steps % n == 0)


def _product_kernel(hidden, down, out, shared: _Shared, *, steps: int):
  columns = pl.ds(lax.axis_index('columns') * COLUMNS, COLUMNS)
  part = lax.axis_index('part')

  def body(accumulator):
    _stream(shared, hidden, (down,), (accumulator,), columns, part * steps, steps)
    shared.out[...] = accumulator[...]

  pl.run_scoped(body, plgpu.ACC((ROWS, COLUMNS), jnp.float32))
  plgpu.commit_smem()
  rows = pl.ds(0, out.shape[1])
  plgpu.copy_smem_to_gmem(shared.out.at[rows], out.at[part, :, columns])
  plgpu.wait_smem_to_gmem(0)


def _stream(shared: _Shared, left: Any, weights: tuple, accumulators: tuple, columns: Any, first: Any, steps: int):
  """Adds left [R, lines] · weight [lines, columns] to each weight's accumulator, `steps` slots from `first` on."""
  rows = pl.ds(0, left.shape[0])
  # Rows that no copy fills are multiplied too: zeros keep uninitialised memory out of the products.
  for slot in range(SLOTS):
    shared.left[slot] = jnp.zeros((ROWS, LINES), shared.left.dtype)
  plgpu.commit_smem()

  def fetch(i):
    @pl.when(i < steps)
    def _():
      slot = lax.rem(i, SLOTS)
      lines = pl.ds((first + i) * LINES, LINES)
      plgpu.copy_gmem_to_smem(left.at[:, lines], shared.left.at[slot, rows], shared.arrived.at[slot])
      for weight, ring in zip(weights, shared.weights, strict=True):
        plgpu.copy_gmem_to_smem(weight.at[lines, columns], ring.at[slot], shared.arrived.at[slot])

  def step(i, _):
    slot = lax.rem(i, SLOTS)
    plgpu.barrier_wait(shared.arrived.at[slot])
    for ring, accumulator in zip(shared.weights, accumulators, strict=True):
      plgpu.wgmma(accumulator, shared.left.at[slot], ring.at[slot])
    plgpu.wgmma_wait(len(accumulators))  # the products of the step before have ended: its slot is free
    fetch(i + SLOTS - 1)

  for i in range(SLOTS - 1):
    fetch(jnp.int32(i))
  lax.fori_loop(0, steps, step, None)
  plgpu.wgmma_wait(0)
