"""One TPU kernel over the unique pages: each is fetched once, and the running softmax of all rows is kept in VMEM.

Grid: the items of the plan. Page blocks arrive through index maps over the prefetched item lists, double-buffered;
queries and state never move. Query heads of a row are neighbours, so the readers of an item are a run of query rows.

R rows   K key heads   G query heads of a key head   H head size   S page size   W items   Q = R·G query rows, padded
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels import chips
from kernels.tree.sinks import with_sinks

MASKED = -1e30  # finite: the difference of two of them is 0, not NaN
LANES = 128
FEW = 16  # query rows of the narrow path: a page of one row, or of a few
WIDE = 64  # query rows of one iteration of the wide path: 16 leaves of 4 heads
PHASE = 4  # heads whose products run together, then their softmax: the MXU does not wait for each
MOST_ITEMS = 48 * 1024  # four int32 lists of them fit into 1 MiB of SMEM
RESERVE = 8 * 2**20  # bytes of VMEM for the compiler's temporaries


def refuse(q, k_pages, v_pages, plan, sinks, *, window) -> str | None:
  """Why this kernel cannot compute these arguments, or None."""
  _, _, page_size, head_size = v_pages.shape
  if page_size % LANES or head_size % LANES:  # XLA would copy a pool of other sizes before every call
    return f'the TPU kernel takes pages and heads of a multiple of {LANES}, got {page_size} tokens of {head_size}'
  if q.dtype not in (jnp.bfloat16, jnp.float32) or q.dtype != k_pages.dtype:
    return f'the TPU kernel takes q and pages of one type, bfloat16 or float32, got {q.dtype} and {k_pages.dtype}'
  items = plan.page.shape[0]
  if items > MOST_ITEMS:
    return f'the TPU kernel takes at most {MOST_ITEMS} items, got {items}'
  needed = _vmem(q.shape, k_pages.shape, q.dtype.itemsize)
  held = chips.vmem()
  if needed > held:
    return f'{q.shape[0]} rows need {needed / 2**20:.0f} MiB of VMEM, of {held / 2**20:.0f}'
  return chips.refuse_partitioning()


def _group(groups: int) -> int:
  """Query rows of a row and key head: a power of two, or whole tiles, so that no row crosses an aligned window."""
  if groups <= FEW:
    return pl.next_power_of_2(groups)
  return pl.cdiv(groups, FEW) * FEW


def _query_rows(rows: int, groups: int) -> int:
  """Query rows with padding: the wide path may begin at any tile."""
  used = rows * _group(groups)
  return pl.cdiv(used, FEW) * FEW + WIDE


def _vmem(q: tuple, pages: tuple, itemsize: int) -> int:
  """Bytes of VMEM for queries, state, results and two blocks of pages."""
  rows, query_heads, head_size = q
  _, heads, _, page_size = pages
  query_rows = heads * _query_rows(rows, query_heads // heads)
  lanes = max(head_size, LANES)
  state = 4 * (lanes + 2 * LANES)
  results = itemsize * lanes + 4 * LANES
  queries = itemsize * lanes + 4 * LANES // heads
  blocks = 2 * 2 * itemsize * heads * lanes * page_size
  return query_rows * (state + results + queries) + blocks + RESERVE


def run(q, k_pages, v_pages, plan, sinks, *, window, interpret: Any = False):
  """As `kernels.tree_attention`, on TPU."""
  r, n, h = q.shape
  heads = k_pages.shape[1]
  groups = n // heads
  group = _group(groups)
  query_rows = _query_rows(r, groups)
  used = r * group
  padding = query_rows - used
  plan = jax.tree.map(jnp.asarray, plan)
  scaled = q.astype(jnp.float32) / math.sqrt(h)
  scaled = scaled.astype(q.dtype)
  by_row = scaled[plan.order].reshape(r, heads, groups, h)
  queries = jnp.swapaxes(by_row, 0, 1)
  queries = jnp.pad(queries, ((0, 0), (0, 0), (0, group - groups), (0, 0)))
  queries = queries.reshape(heads, used, h)
  queries = jnp.pad(queries, ((0, 0), (0, padding), (0, 0)))
  lengths = jnp.repeat(plan.lengths[plan.order], group)
  lengths = jnp.pad(lengths, (0, padding))
  lengths = lengths[:, None]
  call = _call(queries.shape, k_pages, plan, group=group, window=window, interpret=interpret)
  out, lse = call(plan.page, plan.start, plan.first, plan.readers, queries, lengths, k_pages, v_pages)

  def in_order(x):
    by_place = x[:, :used].reshape(heads, r, group, -1)
    by_place = jnp.swapaxes(by_place[:, :, :groups], 0, 1)
    return by_place[plan.place].reshape(r, n, -1)

  out = in_order(out)
  lse = in_order(lse[..., :1])[..., 0]
  if sinks is None:
    return out, lse
  return with_sinks(out, lse, sinks)


def block_page(i, page, start, first, readers) -> tuple:
  """Which block of the pools grid step i reads: one page, all heads."""
  return page[i], 0, 0, 0


def _call(queries: tuple, k_pages: jax.Array, plan, *, group: int, window: int | None, interpret: Any):
  """The `pallas_call` over the items of a plan; queries: [K, Q, H]."""
  heads, query_rows, head_size = queries
  page_size = k_pages.shape[3]
  dtype = k_pages.dtype
  whole = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
  keys = pl.BlockSpec((1, heads, head_size, page_size), block_page)
  values = pl.BlockSpec((1, heads, page_size, head_size), block_page)
  per_lane = (heads, query_rows, LANES)
  lanes = pltpu.VMEM(per_lane, jnp.float32)
  sums = pltpu.VMEM(queries, jnp.float32)
  last_item = jnp.asarray(plan.ends)[-1]
  steps = jnp.maximum(last_item, 1)
  tokens = plan.page.shape[0] * page_size
  numbers = tokens * 2 * heads * head_size
  return pl.pallas_call(
    functools.partial(_kernel, group=group, window=window),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=4,
      grid=(steps,),
      in_specs=[whole(), whole(), keys, values],
      out_specs=[whole(), whole()],
      scratch_shapes=[_State(top=lanes, total=lanes, out=sums)],
    ),
    out_shape=[
      jax.ShapeDtypeStruct(queries, dtype),
      jax.ShapeDtypeStruct(per_lane, jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('arbitrary',),
      vmem_limit_bytes=chips.vmem(),
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * WIDE * numbers,
      transcendentals=WIDE * heads * tokens,
      bytes_accessed=numbers * dtype.itemsize,
    ),
    name='tree_attention',
    interpret=interpret,
  )


class _State(NamedTuple):
  """The running softmax: top, total [K, Q, 128], equal in all lanes; out [K, Q, H]. All float32."""

  top: Any
  total: Any
  out: Any


class _Inputs(NamedTuple):
  """References: queries [K, Q, H], lengths [Q, 1], keys [1, K, H, S], values [1, K, S, H]."""

  queries: Any
  lengths: Any
  keys: Any
  values: Any


def _kernel(page, start, first, readers, queries, lengths, keys, values, out, lse, state: _State, *, group, window):
  i = pl.program_id(0)
  inputs = _Inputs(queries, lengths, keys, values)
  attend = functools.partial(_attend, inputs, state, start[i], window=window)
  begin = first[i] * group
  end = begin + readers[i] * group
  base = begin - begin % FEW
  is_narrow = end - base <= FEW

  @pl.when(i == 0)
  def _():
    state.top[...] = jnp.full_like(state.top, MASKED)
    state.total[...] = jnp.zeros_like(state.total)
    state.out[...] = jnp.zeros_like(state.out)

  @pl.when(is_narrow & (readers[i] > 0))
  def _():
    attend(begin, end, base, FEW)

  @pl.when(~is_narrow)
  def _():
    @pl.loop(0, pl.cdiv(end - base, WIDE))
    def _(j):
      attend(begin, end, base + j * WIDE, WIDE)

  @pl.when(i == pl.num_programs(0) - 1)
  def _():
    total = state.total[...]
    is_read = total > 0
    divisor = jnp.where(is_read, total, 1)
    lse[...] = jnp.where(is_read, state.top[...] + jnp.log(divisor), -jnp.inf)
    mean = state.out[...] / divisor[..., :1]
    out[...] = mean.astype(out.dtype)


def _attend(inputs: _Inputs, state: _State, start, begin, end, base, size: int, *, window: int | None) -> None:
  """Adds a page to query rows begin to end - 1, all among the `size` rows from `base`; no other row changes."""
  rows = pl.ds(pl.multiple_of(base, FEW), size)
  page_size = inputs.values.shape[2]
  row = base + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
  is_reader = (row >= begin) & (row < end)
  length = jnp.where(is_reader, inputs.lengths[rows], 0)
  unbounded = jnp.iinfo(jnp.int32).max
  shortest = jnp.min(jnp.where(is_reader, length, unbounded))
  # Masks of [rows, tokens] cost more than the products; most pages are full, and need none.
  is_whole = (window is None) & (shortest >= start + page_size)

  @pl.when(is_whole)
  def _():
    _add(inputs, state, rows, is_reader)

  @pl.when(~is_whole)
  def _():
    token = start + jax.lax.broadcasted_iota(jnp.int32, (size, page_size), 1)
    see = token < length
    if window is not None:
      see &= token >= length - window
    line = start + jax.lax.broadcasted_iota(jnp.int32, (page_size, 1), 0)
    _add(inputs, state, rows, is_reader, see, is_used=line < jnp.max(length))


def _add(inputs: _Inputs, state: _State, rows, is_reader, see=None, is_used=None) -> None:
  """Adds a page to those of `rows` that read it: is_reader, bool [M, 1].

  see: bool [M, S], the tokens that each row sees, None where it sees all. is_used: bool [S, 1], tokens that any sees.
  """
  heads = inputs.queries.shape[0]
  for first in range(0, heads, PHASE):
    phase = range(first, min(first + PHASE, heads))
    scores = [_dot(inputs.queries[head, rows], inputs.keys[0, head]) for head in phase]
    weights = [_softmax(state, head, rows, is_reader, see, s) for head, s in zip(phase, scores)]
    for head, (p, keep) in zip(phase, weights):
      values = inputs.values[0, head]
      if is_used is not None:  # another token may hold NaN, and 0 · NaN is NaN
        values = jnp.where(is_used, values, jnp.zeros_like(values))
      product = _dot(p.astype(values.dtype), values)
      part = jnp.where(is_reader, product, 0)
      before = state.out[head, rows]
      state.out[head, rows] = before * keep + part


def _softmax(state: _State, head: int, rows, is_reader, see, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(weights [M, S] of the page's tokens, factor [M, 1] for what was summed before); updates top and total.

  Weights of rows that do not read the page are meaningless.
  """
  if see is not None:
    scores = jnp.where(see, scores, MASKED)
  before = state.top[head, rows]
  highest = jnp.maximum(before, scores.max(-1, keepdims=True))
  top = jnp.where(is_reader, highest, before)
  keep = jnp.exp(before - top)
  p = jnp.exp(scores - top[:, :1])
  if see is not None:
    p = jnp.where(see, p, 0)
  total = jnp.where(is_reader, p.sum(-1, keepdims=True), 0)
  state.top[head, rows] = top
  state.total[head, rows] = state.total[head, rows] * keep + total
  return p, keep[:, :1]


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
  precision = None
  if y.dtype == jnp.float32:
    precision = jax.lax.Precision.HIGHEST
  return jnp.dot(x, y, preferred_element_type=jnp.float32, precision=precision)
