"""XLA's form for CPUs: pages with several readers are multiplied in place, by a few rows at a time.

Gathering pages costs as much as reading them, and a page fits into a core's cache. Small pages with the same readers
are joined, because a product of many rows with only 16 tokens takes twice as long for each token. Items of one reader
go through `kernels.tree.xla` in blocks: with so little to multiply, a loop over single items costs more than the copy.
Rows are kept in the order of the plan, in which the readers of an item are neighbours.

State here is that of `kernels.tree.xla` with key heads before rows.

R rows   C rows of a chunk   N query heads   K key heads   G = N/K   H head size   S page size   T tokens of a run
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from kernels import chips
from kernels.tree import xla
from kernels.tree.plan import BLOCK, FEW, Plan, widths
from kernels.tree.xla import MASKED, Inputs, State

TOKENS = 64  # of a product with several rows


@struct.dataclass
class _Rows:
  """Rows in the plan's order. q: [K, R, G, H], scaled; lengths: int32 [R]."""

  q: jax.Array
  lengths: jax.Array


@struct.dataclass
class _Run:
  """One page or several, k [K, H, T] and v [K, T, H]; `readers` rows read them, the first at place `first`.

  token: int32 [T], positions of their tokens in the sequences.
  """

  k: jax.Array
  v: jax.Array
  token: jax.Array
  first: jax.Array
  readers: jax.Array


def refuse(q, k_pages, v_pages, plan, sinks, *, window) -> str | None:
  """Why this form is not taken on a CPU, or None."""
  return chips.refuse_partitioning()


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`."""
  inputs = xla.prepared(q, k_pages, v_pages, plan)
  wide = jnp.promote_types(q.dtype, jnp.float32)
  state = xla.start(inputs.q.shape, sinks, wide)
  state = xla.with_class(state, inputs, 0, window=window)
  shared = widths(q.shape[0])[1:]
  if shared:
    state = _with_shared(state, inputs, shared, window)
  return xla.finished(state, q)


def _with_shared(state: State, inputs: Inputs, classes: tuple[int, ...], window) -> State:
  """The state after the items of several readers."""
  plan = inputs.plan
  in_order = functools.partial(_by_place, plan=plan)
  rows = _Rows(q=in_order(inputs.q), lengths=plan.lengths[plan.order])
  state = jax.tree.map(in_order, state)
  joined = _joined(inputs.k.shape[-1])
  for level, width in enumerate(classes, 1):
    add = functools.partial(_add, rows=rows, chunk=_chunk(width), window=window)
    step = functools.partial(_items, inputs=inputs, joined=joined, add=add)
    begin = plan.ends[level - 1] // joined
    end = plan.ends[level] // joined
    state = jax.lax.fori_loop(begin, end, step, state)

  def by_row(x):
    return jnp.swapaxes(x, 0, 1)[plan.place]

  return jax.tree.map(by_row, state)


def _by_place(x: jax.Array, plan: Plan) -> jax.Array:
  """x [R, K, ...] as [K, R, ...], rows in the order of the plan."""
  return jnp.swapaxes(x[plan.order], 0, 1)


def _chunk(width: int) -> int:
  """Rows that are multiplied at once, of an item with at most `width` readers.

  Small chunks waste few rows on items of few readers; large ones fill a product.
  """
  rows = 8 if width <= FEW else 64
  return min(width, rows)


def _joined(page_size: int) -> int:
  """Pages that are multiplied together if the same rows read them: a divisor of the number of items in a class."""
  pages = max(1, TOKENS // page_size)
  return math.gcd(BLOCK, pages)


def _items(i, state: State, *, inputs: Inputs, joined: int, add: Callable) -> State:
  """Adds `joined` items: together if the same rows read them, else one by one."""
  begin = i * joined
  add_run = functools.partial(_add_run, inputs=inputs, add=add)
  if joined == 1:
    return add_run(state, begin, count=1)
  plan = inputs.plan
  first = jax.lax.dynamic_slice_in_dim(plan.first, begin, joined)
  readers = jax.lax.dynamic_slice_in_dim(plan.readers, begin, joined)
  same_first = (first == first[0]).all()
  same_readers = (readers == readers[0]).all()
  is_run = same_first & same_readers

  def together(_, state):
    return add_run(state, begin, count=joined)

  def alone(j, state):
    return add_run(state, begin + j, count=1)

  # Two loops, one of them without iterations: a conditional would copy the state.
  times_together = jnp.where(is_run, 1, 0)
  state = jax.lax.fori_loop(0, times_together, together, state)
  times_alone = jnp.where(is_run, 0, joined)
  return jax.lax.fori_loop(0, times_alone, alone, state)


def _run(begin, count: int, inputs: Inputs) -> _Run:
  """`count` items, the first being `begin`, with the readers of the first."""
  plan = inputs.plan
  page_size = inputs.v.shape[2]
  offset = jnp.arange(page_size)
  items = [begin + j for j in range(count)]

  def page(pool, item):
    return jax.lax.dynamic_index_in_dim(pool, plan.page[item], keepdims=False)

  k = [page(inputs.k, item) for item in items]
  v = [page(inputs.v, item) for item in items]
  token = [plan.start[item] + offset for item in items]
  return _Run(
    k=jnp.concatenate(k, axis=2),
    v=jnp.concatenate(v, axis=1),
    token=jnp.concatenate(token),
    first=plan.first[begin],
    readers=plan.readers[begin],
  )


def _add_run(state: State, begin, *, count: int, inputs: Inputs, add: Callable) -> State:
  """Adds `count` items with the same readers to the state of these, a chunk of them at a time."""
  run = _run(begin, count, inputs)
  chunk = add.keywords['chunk']
  chunks = -(-run.readers // chunk)

  def step(j, state):
    return add(state, run, begin=run.first + j * chunk)

  return jax.lax.fori_loop(0, chunks, step, state)


def _add(state: State, run: _Run, *, rows: _Rows, begin, chunk: int, window) -> State:
  """Adds a run to the state of its readers among the `chunk` rows that start at place `begin`."""
  r = rows.lengths.shape[0]
  slot = jnp.clip(begin, 0, r - chunk)  # a chunk at the end overlaps the one before, whose rows are masked
  place = slot + jnp.arange(chunk)
  after = run.first + run.readers
  reads = (place >= begin) & (place < after)
  lengths = jax.lax.dynamic_slice_in_dim(rows.lengths, slot, chunk)
  see = _sees(run, lengths, window)
  see = see & reads[:, None]  # [C, T]
  taken = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=slot, slice_size=chunk, axis=1)
  q = taken(rows.q)
  old = jax.tree.map(taken, state)
  new = _softmax(q, run, see, old)
  update = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=1)
  return jax.tree.map(update, state, new)


def _softmax(q: jax.Array, run: _Run, see: jax.Array, state: State) -> State:
  """The state of queries q [K, C, G, H] after the tokens of a run that they see, bool [C, T]."""
  wide = state.top.dtype
  mask = see[None, :, None]
  scores = _product('kch,kht->kct', q, run.k, wide)
  scores = jnp.where(mask, scores, MASKED)
  highest = scores.max(-1)
  top = jnp.maximum(state.top, highest)
  p = xla.exponentials(scores, top, mask)
  is_used = see.any(0)[:, None]
  v = jnp.where(is_used, run.v, 0)  # 0 · NaN of an unused token is NaN
  out = _product('kct,kth->kch', p.astype(v.dtype), v, wide)
  return xla.rescaled(state, top, p.sum(-1), out)


def _sees(run: _Run, lengths: jax.Array, window) -> jax.Array:
  """Which tokens of the run each row sees, bool [C, T], if it reads the run."""
  length = lengths[:, None]
  see = run.token < length
  if window is None:
    return see
  is_near = run.token >= length - window
  return see & is_near


def _product(eqn: str, x: jax.Array, page: jax.Array, dtype) -> jax.Array:
  """[K, C, G, *] of x [K, C, G, *] and a page: both query axes are rows of one product."""
  heads, chunk, groups, size = x.shape
  rows = x.reshape(heads, chunk * groups, size)
  y = jnp.einsum(eqn, rows, page, preferred_element_type=dtype)
  return y.reshape(heads, chunk, groups, -1)
