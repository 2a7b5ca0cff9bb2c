"""The portable form: a loop over blocks of items with a running softmax; its length is traced, its shape fixed.

R rows   B items of a block   C rows of an item   N query heads   K key heads   G = N/K   H head size   S page size
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from kernels.tree.plan import BLOCK, Plan, widths

MASKED = -1e30  # finite: the difference of two of them is 0, not NaN


@struct.dataclass
class Inputs:
  """What every block reads. q: [R, K, G, H], scaled; k, v: the pools."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  plan: Plan


@struct.dataclass
class State:
  """The running softmax of each row: top, total [R, K, G] and out [R, K, G, H], in float32 or wider."""

  top: jax.Array
  total: jax.Array
  out: jax.Array


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`."""
  inputs = prepared(q, k_pages, v_pages, plan)
  state = start(inputs.q.shape, sinks, jnp.promote_types(q.dtype, jnp.float32))
  for level in range(len(widths(q.shape[0]))):
    state = with_class(state, inputs, level, window=window)
  return finished(state, q)


def prepared(q, k_pages, v_pages, plan: Plan) -> Inputs:
  """The arguments of `kernels.tree_attention` as blocks read them."""
  r, n, h = q.shape
  heads = k_pages.shape[1]
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  scaled = (q.astype(dtype) / math.sqrt(h)).astype(q.dtype)
  grouped = scaled.reshape(r, heads, n // heads, h)
  return Inputs(grouped, k_pages, v_pages, jax.tree.map(jnp.asarray, plan))


def with_class(state: State, inputs: Inputs, level: int, *, window) -> State:
  """The state after the items of one class of `widths`."""
  r = inputs.q.shape[0]
  width = widths(r)[level]
  ends = inputs.plan.ends
  begin = 0 if level == 0 else ends[level - 1] // BLOCK
  part = _all if width == r else functools.partial(_few, width=width)
  step = functools.partial(_block, inputs=inputs, window=window, part=part)
  return jax.lax.fori_loop(begin, ends[level] // BLOCK, step, state)


def finished(state: State, q: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(out in the shape and dtype of q, log-sum-exp [R, N])."""
  is_read = state.total > 0
  divisor = jnp.where(is_read, state.total, 1)
  lse = jnp.where(is_read, state.top + jnp.log(divisor), -jnp.inf)
  out = state.out / divisor[..., None]
  return out.reshape(q.shape).astype(q.dtype), lse.reshape(q.shape[:2])


def start(shape: tuple[int, ...], sinks, dtype) -> State:
  """The state before any item: a sink is a token of value 0 that every row reads."""
  by_head = shape[:3]
  out = jnp.zeros(shape, dtype)
  if sinks is None:
    top = jnp.full(by_head, MASKED, dtype)
    return State(top, jnp.zeros_like(top), out)
  grouped = sinks.astype(dtype).reshape(by_head[1:])
  top = jnp.broadcast_to(grouped, by_head)
  return State(top, jnp.ones_like(top), out)


@struct.dataclass
class _Items:
  """The items of a block, int32 [B] each, and the keys [B, K, H, S] and values [B, K, S, H] of their pages."""

  start: jax.Array
  first: jax.Array
  readers: jax.Array
  k: jax.Array
  v: jax.Array


def _block(i, state: State, *, inputs: Inputs, window, part) -> State:
  plan = inputs.plan
  lists = (plan.page, plan.start, plan.first, plan.readers)
  begin = i * BLOCK
  page, start, first, readers = (jax.lax.dynamic_slice_in_dim(x, begin, BLOCK) for x in lists)
  items = _Items(start, first, readers, inputs.k[page], inputs.v[page])
  return part(state, inputs, items, window)


def _sees(items: _Items, length, window):
  """Which tokens of each page a row sees, bool [..., B, S]; it reads `length` [..., B or 1, 1] tokens."""
  page_size = items.v.shape[2]
  token = items.start[:, None] + jnp.arange(page_size)
  see = token < length
  if window is None:
    return see
  return see & (token >= length - window)


def _few(state: State, inputs: Inputs, items: _Items, window, *, width: int) -> State:
  """Each item with its own rows; the parts are summed into rows by a product with a 0/1 matrix."""
  r = inputs.q.shape[0]
  column = jnp.arange(width)
  place = jnp.minimum(items.first[:, None] + column, r - 1)
  row = inputs.plan.order[place]  # [B, C]
  reads = column < items.readers[:, None]
  lengths = jnp.where(reads, inputs.plan.lengths[row], 0)
  length = lengths.T[..., None]  # [C, B, 1]
  see = jnp.moveaxis(_sees(items, length, window), 0, 1)  # [B, C, S]
  wide = state.top.dtype
  s = jnp.einsum('bckgh,bkhs->bkcgs', inputs.q[row], items.k, preferred_element_type=wide)
  mask = see[:, None, :, None]
  s = jnp.where(mask, s, MASKED)
  top = s.max(-1)
  p = jnp.where(mask, jnp.exp(s - top[..., None]), 0)
  is_used = see.any(1)[:, None, :, None]
  v = jnp.where(is_used, items.v, 0)  # 0 · NaN of an unused token is NaN
  out = jnp.einsum('bkcgs,bksh->bkcgh', p.astype(v.dtype), v, preferred_element_type=wide)
  parts = State(top, p.sum(-1), out)
  target = jnp.where(reads, row, r)
  return _merge(state, jax.tree.map(_by_item_row, parts), target.reshape(-1))


def _by_item_row(x: jax.Array) -> jax.Array:
  """Parts [B, K, C, G, ...] as [B * C, K, G, ...]."""
  heads = x.shape[1]
  rows_first = jnp.moveaxis(x, 1, 2)
  return rows_first.reshape(-1, heads, *x.shape[3:])


def _merge(state: State, parts: State, rows: jax.Array) -> State:
  """Adds parts [B * C, K, G, ...] to the state of `rows`; R adds to none.

  Several parts may belong to one row, so all are scaled to the row's new top and summed by a product with a 0/1 matrix.
  """
  r = state.top.shape[0]
  is_row = rows == jnp.arange(r)[:, None]  # [R, B * C]
  tops = jnp.where(is_row[..., None, None], parts.top, MASKED)
  top = jnp.maximum(state.top, tops.max(1))
  own_top = top[jnp.minimum(rows, r - 1)]
  scale = jnp.exp(parts.top - jnp.maximum(own_top, parts.top))
  keep = jnp.exp(state.top - top)
  one = is_row.astype(top.dtype)
  added_total = jnp.einsum('rx,xkg->rkg', one, parts.total * scale)
  added_out = jnp.einsum('rx,xkgh->rkgh', one, parts.out * scale[..., None])
  total = state.total * keep + added_total
  out = state.out * keep[..., None] + added_out
  return State(top, total, out)


def _all(state: State, inputs: Inputs, items: _Items, window) -> State:
  """All rows by all tokens of the block in one product."""
  q = inputs.q
  plan = inputs.plan
  wide = state.top.dtype
  by_head = state.top.shape  # [R, K, G]
  place = plan.place[:, None]
  after = items.first + items.readers
  reads = (place >= items.first) & (place < after)  # [R, B]
  see = _sees(items, plan.lengths[:, None, None], window) & reads[..., None]
  see = see.reshape(q.shape[0], -1)  # [R, B * S]
  mask = see[:, None, None]
  s = jnp.einsum('rkgh,bkhs->rkgbs', q, items.k, preferred_element_type=wide)
  s = jnp.where(mask, s.reshape(*by_head, -1), MASKED)
  top = jnp.maximum(state.top, s.max(-1))
  p = jnp.where(mask, jnp.exp(s - top[..., None]), 0)
  is_used = see.any(0).reshape(BLOCK, 1, -1, 1)
  v = jnp.where(is_used, items.v, 0)
  keep = jnp.exp(state.top - top)
  weights = p.astype(v.dtype).reshape(*by_head, BLOCK, -1)
  added = jnp.einsum('rkgbs,bksh->rkgh', weights, v, preferred_element_type=wide)
  total = state.total * keep + p.sum(-1)
  out = state.out * keep[..., None] + added
  return State(top, total, out)
