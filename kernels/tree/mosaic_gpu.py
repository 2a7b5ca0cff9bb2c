"""One kernel for Hopper GPUs over the pages of a block of query rows: TMA ahead of wgmma, a running softmax in base 2.

Query rows of neighbouring rows form blocks of 64, so a page that up to 64 of them share is fetched once. A thread block
takes one block of rows, one key head and one part of the block's pages; the parts are merged by XLA.

R rows   K key heads   G query heads of a key head   H head size   S page size   B blocks   Q = 64 query rows   P parts
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import hopper
from kernels.hopper import ROWS
from kernels.tree import by_block
from kernels.tree.by_block import Items
from kernels.tree.sinks import with_sinks

MASKED = -(2.0**30)  # finite: the difference of two of them is 0, not NaN; and an integer in 32 bits
SLOTS = 2  # pages in shared memory: three of 128 tokens of 128 elements do not fit
MOST_PARTS = 16
LOG2_E = math.log2(math.e)


def refuse(q, k_pages, v_pages, plan, sinks, *, window) -> str | None:
  """Why this kernel cannot compute these arguments, or None."""
  _, heads, page_size, head_size = v_pages.shape
  if page_size not in (64, 128) or head_size not in (64, 128):
    return f'the GPU kernel takes pages of 64 or 128 tokens of 64 or 128 elements, got {page_size} of {head_size}'
  if q.shape[1] // heads > ROWS:
    return f'the GPU kernel takes at most {ROWS} query heads a key head, got {q.shape[1] // heads}'
  return hopper.refuse(q.dtype, k_pages.dtype, v_pages.dtype)


def run(q, k_pages, v_pages, plan, sinks, *, window, interpret: Any = None):
  """As `kernels.tree_attention`, on a Hopper GPU."""
  out, lse = attend(q, k_pages, v_pages, plan, window=window, interpret=interpret)
  out = out.astype(q.dtype)
  if sinks is None:
    return out, lse
  return with_sinks(out, lse, sinks)


def attend(q, k_pages, v_pages, plan, *, window=None, parts: int | None = None, interpret: Any = None):
  """Attention without sinks, in float32: ([R, N, H], log-sum-exp [R, N]).

  parts: thread blocks that share the pages of a block of rows; by default as many as fill the GPU.
  """
  r, n, _ = q.shape
  _, heads, page_size, _ = v_pages.shape
  groups = n // heads
  items = by_block.items(plan, groups, query_rows=ROWS, page_size=page_size, window=window)
  blocks = items.count.shape[0]
  if parts is None:
    parts = min(pl.cdiv(hopper.SMS, blocks * heads), MOST_PARTS)
  queries = _in_blocks(q[jnp.asarray(plan.order)], blocks, heads)
  call = _call(queries, v_pages.shape, parts=parts, window=window, interpret=interpret)
  out, lse = _merged(*call(items, queries, k_pages, v_pages))
  place = jnp.asarray(plan.place)

  def in_order(x):
    rows = ROWS // groups
    used = x[:, :, : rows * groups].reshape(heads, blocks * rows, groups, -1)
    by_row = jnp.swapaxes(used, 0, 1)
    return by_row[place].reshape(r, n, -1)

  return in_order(out), in_order(lse)[..., 0]


def _in_blocks(q: jax.Array, blocks: int, heads: int) -> jax.Array:
  """Queries [R, N, H] in the order of the plan as [K, B, Q, H], padded with zeros."""
  r, n, h = q.shape
  groups = n // heads
  rows = ROWS // groups
  padded = jnp.pad(q, ((0, blocks * rows - r), (0, 0), (0, 0)))
  grouped = padded.reshape(blocks, rows, heads, groups, h)
  by_head = jnp.moveaxis(grouped, 2, 0).reshape(heads, blocks, rows * groups, h)
  return jnp.pad(by_head, ((0, 0), (0, 0), (0, ROWS - rows * groups), (0, 0)))


def _merged(out: jax.Array, top: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(softmax [K, B, Q, H], log-sum-exp [K, B, Q]) of the sums of P parts, [P, K, B, Q, ...]."""
  highest = top.max(0)
  weight = jnp.exp2(top - highest)
  whole = (total * weight).sum(0)
  is_read = whole > 0
  divisor = jnp.where(is_read, whole, 1)
  mean = (out * weight[..., None]).sum(0) / divisor[..., None]
  lse = jnp.where(is_read, (highest + jnp.log2(divisor)) / LOG2_E, -jnp.inf)
  return mean, lse


class _Shared(NamedTuple):
  """Shared memory: queries, lengths [Q], a ring of keys [H, S] and values [S, H], weights, results, top and total."""

  queries: Any
  lengths: Any
  keys: Any
  values: Any
  weights: Any
  out: Any
  sums: Any
  arrived: Any  # a barrier for each slot of the ring
  ready: Any  # a barrier for queries and lengths


class _Softmax(NamedTuple):
  """The running softmax of a block: out [Q, H]; top, total [Q]. All float32."""

  out: jax.Array
  top: jax.Array
  total: jax.Array


def _call(queries: jax.Array, values: tuple, *, parts: int, window: int | None, interpret: Any):
  """The kernel as a function of `Items`, queries [K, B, Q, H] and the pools; values: the shape of their pool."""
  heads, blocks, _, h = queries.shape
  s = values[2]
  dtype = queries.dtype
  float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  per_row = parts, heads, blocks, ROWS
  shared = _Shared(
    queries=hopper.tile((ROWS, h), dtype),
    lengths=plgpu.SMEM((ROWS,), jnp.int32),
    keys=hopper.tile((SLOTS, h, s), dtype),
    values=hopper.tile((SLOTS, s, h), dtype),
    weights=hopper.tile((ROWS, s), dtype),
    out=hopper.tile((ROWS, h), jnp.float32),
    sums=plgpu.SMEM((2, ROWS), jnp.float32),
    arrived=plgpu.Barrier(num_arrivals=2, num_barriers=SLOTS),
    ready=plgpu.Barrier(num_arrivals=2),
  )
  kernel = plgpu.kernel(
    functools.partial(_kernel, window=window, scale=LOG2_E / math.sqrt(h)),
    out_type=[float32((*per_row, h)), float32(per_row), float32(per_row)],
    scratch_types=[shared],
    grid=(blocks, heads, parts),
    grid_names=('block', 'head', 'part'),
    compiler_params=hopper.PARAMS,
    interpret=interpret,
    kernel_name='tree_attention',
  )
  return lambda items, *arrays: kernel(*jax.tree.leaves(items), *arrays)


def _kernel(*refs, window: int | None, scale: float):
  *lists, queries, k_pages, v_pages, out, top, total, shared = refs
  items = Items(*lists)
  block = lax.axis_index('block')
  head = lax.axis_index('head')
  part = lax.axis_index('part')
  count = items.count[block]
  first, last = (lax.div(count * n, lax.axis_size('part')) for n in (part, part + 1))
  plgpu.copy_gmem_to_smem(queries.at[head, block], shared.queries, shared.ready)
  plgpu.copy_gmem_to_smem(items.lengths.at[block], shared.lengths, shared.ready)

  def fetch(i):
    @pl.when(i < last)
    def _():
      page = items.page[block, i]
      slot = lax.rem(i, SLOTS)
      plgpu.copy_gmem_to_smem(k_pages.at[page, head], shared.keys.at[slot], shared.arrived.at[slot])
      plgpu.copy_gmem_to_smem(v_pages.at[page, head], shared.values.at[slot], shared.arrived.at[slot])

  def step(i, state):
    slot = lax.rem(i, SLOTS)
    fetch(i + SLOTS - 1)
    plgpu.barrier_wait(shared.arrived.at[slot])
    fields = items.start, items.begin, items.end, items.low, items.high
    item = _Item(*(field[block, i] for field in fields))
    return _add(shared, slot, item, state, window=window, scale=scale)

  fetch(first)
  plgpu.barrier_wait(shared.ready)
  nothing = jnp.zeros((ROWS,), jnp.float32)
  start = _Softmax(jnp.zeros(shared.out.shape, jnp.float32), nothing + MASKED, nothing)
  state = lax.fori_loop(first, last, step, start)
  shared.out[...] = state.out
  shared.sums[0] = state.top
  shared.sums[1] = state.total
  plgpu.commit_smem()
  plgpu.copy_smem_to_gmem(shared.out, out.at[part, head, block])
  plgpu.copy_smem_to_gmem(shared.sums.at[0], top.at[part, head, block])
  plgpu.copy_smem_to_gmem(shared.sums.at[1], total.at[part, head, block])
  plgpu.wait_smem_to_gmem(0)


class _Item(NamedTuple):
  """One entry of `Items`, int32 numbers."""

  start: Any
  begin: Any
  end: Any
  low: Any
  high: Any


def _add(shared: _Shared, slot, item: _Item, state: _Softmax, *, window: int | None, scale: float) -> _Softmax:
  """The softmax with the page of a slot added."""
  page_size = shared.values.shape[1]
  see = _sees(shared, item, window)
  products = _product(shared.queries, shared.keys.at[slot], (ROWS, page_size))
  scores = jnp.where(see, products * scale, MASKED)
  # Rounded up to an integer: factors between two tops are powers of two, so weights round alike after any page.
  above = scores.max(1).astype(jnp.int32) + 1
  top = jnp.maximum(state.top, above.astype(jnp.float32))
  keep = jnp.exp2(state.top - top)
  exponent = scores - lax.broadcast_in_dim(top, scores.shape, [0])
  weights = jnp.where(see, jnp.exp2(exponent), 0.0)
  total = state.total * keep + weights.sum(1)
  _clear_unread(shared.values.at[slot], item)
  shared.weights[...] = weights.astype(shared.weights.dtype)
  plgpu.commit_smem()
  added = _product(shared.weights, shared.values.at[slot], state.out.shape)
  kept = state.out * lax.broadcast_in_dim(keep, state.out.shape, [0])
  return _Softmax(kept + added, top, total)


def _sees(shared: _Shared, item: _Item, window: int | None) -> jax.Array:
  """Which tokens of a page each query row sees, bool [Q, S]."""
  shape = shared.weights.shape
  row = lax.broadcasted_iota(jnp.int32, shape, 0)
  token = item.start + lax.broadcasted_iota(jnp.int32, shape, 1)
  length = lax.broadcast_in_dim(shared.lengths[...], shape, [0])
  see = (row >= item.begin) & (row < item.end) & (token < length)
  if window is None:
    return see
  return see & (token >= length - window)


def _clear_unread(values: Any, item: _Item) -> None:
  """Zeros in the tokens that no row reads: they may hold NaN, and 0 · NaN is NaN."""

  @pl.when((item.low > 0) | (item.high < values.shape[0]))
  def _():
    token = lax.broadcasted_iota(jnp.int32, values.shape, 0)
    is_read = (token >= item.low) & (token < item.high)
    held = values[...]
    values[...] = jnp.where(is_read, held, jnp.zeros_like(held))


def _product(left: Any, right: Any, shape: tuple[int, int]) -> jax.Array:
  """The product of two tiles of shared memory, float32."""

  def body(accumulator):
    plgpu.wgmma(accumulator, left, right)
    return accumulator[...]

  return pl.run_scoped(body, plgpu.ACC(shape, jnp.float32))
