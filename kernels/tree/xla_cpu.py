"""XLA's form for CPUs: pages that several rows read are multiplied where they are, by a few rows at a time.

Gathering pages costs as much as reading them, and a page fits into a core's cache. Only where the same rows read
several small pages are these joined: products of many rows with 16 tokens take twice as long for each. Items of one
reader go by blocks, as in `kernels.tree.xla`: with little to multiply, a loop over them costs more than the copy. Rows
are kept in the order of the plan, in which the readers of an item are neighbours.

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
  """One page or several, k [K, H, T] and v [K, T, H], and the `readers` rows from place `first` on that read them.

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
  state = xla.start(inputs.q.shape, sinks, jnp.promote_types(q.dtype, jnp.float32))
  state = xla.with_class(state, inputs, 0, window=window)
  shared = widths(q.shape[0])[1:]
  if shared:
    state = _with_shared(state, inputs, shared, window)
  return xla.finished(state, q)


def _with_shared(state: State, inputs: Inputs, classes: tuple[int, ...], window) -> State:
  """The state after the items of several readers."""
  plan = inputs.plan
  rows = _Rows(_by_place(inputs.q, plan), plan.lengths[plan.order])
  state = jax.tree.map(lambda x: _by_place(x, plan), state)
  for level, width in enumerate(classes, 1):
    add = functools.partial(_add, rows=rows, chunk=_chunk(width), window=window)
    joined = _joined(inputs.k.shape[-1])
    step = functools.partial(_items, inputs=inputs, joined=joined, add=add)
    begin, end = plan.ends[level - 1], plan.ends[level]
    state = jax.lax.fori_loop(begin // joined, end // joined, step, state)
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1)[plan.place], state)


def _by_place(x: jax.Array, plan: Plan) -> jax.Array:
  """x [R, K, ...] as [K, R, ...], rows in the order of the plan."""
  return jnp.swapaxes(x[plan.order], 0, 1)


def _chunk(width: int) -> int:
  """Rows that are multiplied at once, of an item with at most `width` readers: few are wasted, many fill a product."""
  return min(width, 8 if width <= FEW else 64)


def _joined(page_size: int) -> int:
  """Pages that are multiplied together if the same rows read them: a divisor of a class's items."""
  return math.gcd(BLOCK, max(1, TOKENS // page_size))


def _items(i, state: State, *, inputs: Inputs, joined: int, add: Callable) -> State:
  """Adds `joined` items: together if they are pages of one run, else one by one."""
  begin = i * joined
  plan = inputs.plan
  if joined == 1:
    return _all_readers(_run(begin, 1, inputs), state, add)
  first, readers = (jax.lax.dynamic_slice_in_dim(x, begin, joined) for x in (plan.first, plan.readers))
  is_run = (first == first[0]).all() & (readers == readers[0]).all()

  def together(_, state):
    return _all_readers(_run(begin, joined, inputs), state, add)

  def alone(j, state):
    return _all_readers(_run(begin + j, 1, inputs), state, add)

  # Loops of no turn or some: a conditional would copy the state.
  state = jax.lax.fori_loop(0, jnp.where(is_run, 1, 0), together, state)
  return jax.lax.fori_loop(0, jnp.where(is_run, 0, joined), alone, state)


def _run(begin, count: int, inputs: Inputs) -> _Run:
  """`count` items from `begin` on, with the readers of the first."""
  plan = inputs.plan
  page_size = inputs.v.shape[2]
  items = [begin + j for j in range(count)]
  k = [jax.lax.dynamic_index_in_dim(inputs.k, plan.page[item], keepdims=False) for item in items]
  v = [jax.lax.dynamic_index_in_dim(inputs.v, plan.page[item], keepdims=False) for item in items]
  token = [plan.start[item] + jnp.arange(page_size) for item in items]
  return _Run(
    k=jnp.concatenate(k, axis=2),
    v=jnp.concatenate(v, axis=1),
    token=jnp.concatenate(token),
    first=plan.first[begin],
    readers=plan.readers[begin],
  )


def _all_readers(run: _Run, state: State, add: Callable) -> State:
  """Adds a run to the state of its readers, a chunk of them at a time."""
  chunk = add.keywords['chunk']
  chunks = -(-run.readers // chunk)
  return jax.lax.fori_loop(0, chunks, lambda j, state: add(state, run, begin=run.first + j * chunk), state)


def _add(state: State, run: _Run, *, rows: _Rows, begin, chunk: int, window) -> State:
  """Adds a run to the state of `chunk` rows from place `begin` on, and of those only to its readers."""
  r = rows.lengths.shape[0]
  slot = jnp.clip(begin, 0, r - chunk)  # rows before `begin` have been added to
  place = slot + jnp.arange(chunk)
  reads = (place >= begin) & (place < run.first + run.readers)
  lengths = jax.lax.dynamic_slice_in_dim(rows.lengths, slot, chunk)
  see = _sees(run, lengths, window) & reads[:, None]  # [C, T]
  q, *old = (_slice(x, slot, chunk) for x in (rows.q, state.top, state.total, state.out))
  new = _softmax(q, run, see, State(*old))
  update = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=1)
  return jax.tree.map(update, state, new)


def _softmax(q: jax.Array, run: _Run, see: jax.Array, state: State) -> State:
  """The state of queries q [K, C, G, H] after the tokens of a run that they see, bool [C, T]."""
  wide = state.top.dtype
  mask = see[None, :, None]
  s = jnp.where(mask, _product('kch,kht->kct', q, run.k, wide), MASKED)
  top = jnp.maximum(state.top, s.max(-1))
  p = jnp.where(mask, jnp.exp(s - top[..., None]), 0)
  used = see.any(0)[:, None]
  v = jnp.where(used, run.v, 0)  # 0 · NaN of an unused token is NaN
  keep = jnp.exp(state.top - top)
  added = _product('kct,kth->kch', p.astype(v.dtype), v, wide)
  return State(top, state.total * keep + p.sum(-1), state.out * keep[..., None] + added)


def _sees(run: _Run, lengths: jax.Array, window) -> jax.Array:
  """Which tokens of the run each row sees, bool [C, T], if it reads the run."""
  see = run.token < lengths[:, None]
  if window is None:
    return see
  return see & (run.token >= lengths[:, None] - window)


def _slice(x: jax.Array, slot, chunk: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x, slot, chunk, axis=1)


def _product(eqn: str, x: jax.Array, page: jax.Array, dtype) -> jax.Array:
  """[K, C, G, *] of x [K, C, G, *] and a page: both query axes are rows of one product."""
  heads, chunk, groups, _ = x.shape
  y = jnp.einsum(eqn, x.reshape(heads, chunk * groups, -1), page, preferred_element_type=dtype)
  return y.reshape(heads, chunk, groups, -1)
