"""The portable form: a loop over blocks of items with a running softmax; traced trip count, fixed shapes.

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
  wide = jnp.promote_types(q.dtype, jnp.float32)
  state = start(inputs.q.shape, sinks, wide)
  classes = widths(q.shape[0])
  for level in range(len(classes)):
    state = with_class(state, inputs, level, window=window)
  return finished(state, q)


def prepared(q, k_pages, v_pages, plan: Plan) -> Inputs:
  """The arguments of `kernels.tree_attention` as blocks read them."""
  r, n, h = q.shape
  heads = k_pages.shape[1]
  groups = n // heads
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  scaled = q.astype(dtype) / math.sqrt(h)
  rounded = scaled.astype(q.dtype)
  grouped = rounded.reshape(r, heads, groups, h)
  on_device = jax.tree.map(jnp.asarray, plan)
  return Inputs(q=grouped, k=k_pages, v=v_pages, plan=on_device)


def with_class(state: State, inputs: Inputs, level: int, *, window) -> State:
  """The state after the items of one class of `widths`."""
  r = inputs.q.shape[0]
  width = widths(r)[level]
  part = _all
  if width < r:
    part = functools.partial(_few, width=width)
  step = functools.partial(_block, inputs=inputs, window=window, part=part)
  ends = inputs.plan.ends
  begin = 0
  if level > 0:
    begin = ends[level - 1] // BLOCK
  end = ends[level] // BLOCK
  return jax.lax.fori_loop(begin, end, step, state)


def finished(state: State, q: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(out in the shape and dtype of q, log-sum-exp [R, N])."""
  is_read = state.total > 0
  divisor = jnp.where(is_read, state.total, 1)
  log_total = jnp.log(divisor)
  lse = jnp.where(is_read, state.top + log_total, -jnp.inf)
  lse = lse.reshape(q.shape[:2])
  out = state.out / divisor[..., None]
  out = out.reshape(q.shape)
  return out.astype(q.dtype), lse


def start(shape: tuple[int, ...], sinks, dtype) -> State:
  """The state before any item: a sink is a token of value 0 that every row reads."""
  by_head = shape[:3]
  out = jnp.zeros(shape, dtype)
  if sinks is None:
    top = jnp.full(by_head, MASKED, dtype)
    total = jnp.zeros_like(top)
    return State(top=top, total=total, out=out)
  grouped = sinks.astype(dtype).reshape(by_head[1:])
  top = jnp.broadcast_to(grouped, by_head)
  total = jnp.ones_like(top)  # exp(sink - top)
  return State(top=top, total=total, out=out)


def exponentials(scores: jax.Array, top: jax.Array, mask: jax.Array) -> jax.Array:
  """exp(scores - top), and 0 where the mask is false."""
  # The scores alone do not suffice: where all are MASKED so is the top, and exp(0) is 1.
  shifted = scores - top[..., None]
  return jnp.where(mask, jnp.exp(shifted), 0)


def rescaled(state: State, top: jax.Array, total: jax.Array, out: jax.Array) -> State:
  """The running softmax with more tokens: their exponentials, relative to the new `top`, sum to `total` and `out`."""
  keep = jnp.exp(state.top - top)
  kept_total = state.total * keep
  kept_out = state.out * keep[..., None]
  return State(top=top, total=kept_total + total, out=kept_out + out)


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
  begin = i * BLOCK

  def taken(x):
    return jax.lax.dynamic_slice_in_dim(x, begin, BLOCK)

  page = taken(plan.page)
  items = _Items(
    start=taken(plan.start),
    first=taken(plan.first),
    readers=taken(plan.readers),
    k=inputs.k[page],
    v=inputs.v[page],
  )
  return part(state, inputs, items, window)


def _sees(items: _Items, length, window):
  """Which tokens of each page a row sees, bool [..., B, S]; the row reads `length` [..., B or 1, 1] tokens."""
  page_size = items.v.shape[2]
  offset = jnp.arange(page_size)
  token = items.start[:, None] + offset
  see = token < length
  if window is None:
    return see
  is_near = token >= length - window
  return see & is_near


def _few(state: State, inputs: Inputs, items: _Items, window, *, width: int) -> State:
  """Multiplies each item with its own readers only, at most `width`, and merges the results into the state."""
  plan = inputs.plan
  r = inputs.q.shape[0]
  product = functools.partial(jnp.einsum, preferred_element_type=state.top.dtype)
  column = jnp.arange(width)
  place = items.first[:, None] + column
  place = jnp.minimum(place, r - 1)
  row = plan.order[place]  # [B, C]
  reads = column < items.readers[:, None]
  lengths = jnp.where(reads, plan.lengths[row], 0)
  length = lengths.T[..., None]  # [C, B, 1]
  see = _sees(items, length, window)
  see = jnp.moveaxis(see, 0, 1)  # [B, C, S]
  mask = see[:, None, :, None]
  q = inputs.q[row]
  scores = product('bckgh,bkhs->bkcgs', q, items.k)
  scores = jnp.where(mask, scores, MASKED)
  top = scores.max(-1)
  p = exponentials(scores, top, mask)
  is_used = see.any(1)[:, None, :, None]
  v = jnp.where(is_used, items.v, 0)  # 0 · NaN of an unused token is NaN
  weights = p.astype(v.dtype)
  out = product('bkcgs,bksh->bkcgh', weights, v)
  parts = State(top=top, total=p.sum(-1), out=out)
  parts = jax.tree.map(_by_item_row, parts)
  target = jnp.where(reads, row, r)
  return _merge(state, parts, target.reshape(-1))


def _by_item_row(x: jax.Array) -> jax.Array:
  """Parts [B, K, C, G, ...] as [B * C, K, G, ...]."""
  heads = x.shape[1]
  rest = x.shape[3:]
  rows_first = jnp.moveaxis(x, 1, 2)
  return rows_first.reshape(-1, heads, *rest)


def _merge(state: State, parts: State, rows: jax.Array) -> State:
  """The state with parts [B * C, K, G, ...] added to `rows` [B * C]; a part of row R is dropped.

  Several parts may belong to one row, so all are scaled to the row's new top and summed by a product with a 0/1 matrix.
  """
  r = state.top.shape[0]
  row = jnp.arange(r)[:, None]
  is_row = rows == row  # [R, B * C]
  tops = jnp.where(is_row[..., None, None], parts.top, MASKED)
  highest = tops.max(1)
  top = jnp.maximum(state.top, highest)
  own_row = jnp.minimum(rows, r - 1)
  own_top = top[own_row]
  # A dropped part may exceed the top of the row it is clipped to; its factor must not overflow.
  bound = jnp.maximum(own_top, parts.top)
  scale = jnp.exp(parts.top - bound)
  scaled_total = parts.total * scale
  scaled_out = parts.out * scale[..., None]
  one = is_row.astype(top.dtype)
  total = jnp.einsum('rx,xkg->rkg', one, scaled_total)
  out = jnp.einsum('rx,xkgh->rkgh', one, scaled_out)
  return rescaled(state, top, total, out)


def _all(state: State, inputs: Inputs, items: _Items, window) -> State:
  """All rows by all tokens of the block in one product."""
  plan = inputs.plan
  product = functools.partial(jnp.einsum, preferred_element_type=state.top.dtype)
  by_head = state.top.shape  # [R, K, G]
  place = plan.place[:, None]
  after = items.first + items.readers
  reads = (place >= items.first) & (place < after)  # [R, B]
  length = plan.lengths[:, None, None]
  see = _sees(items, length, window)
  see = see & reads[..., None]
  see = see.reshape(len(place), -1)  # [R, B * S]
  mask = see[:, None, None]
  scores = product('rkgh,bkhs->rkgbs', inputs.q, items.k)
  scores = scores.reshape(*by_head, -1)
  scores = jnp.where(mask, scores, MASKED)
  highest = scores.max(-1)
  top = jnp.maximum(state.top, highest)
  p = exponentials(scores, top, mask)
  is_used = see.any(0).reshape(BLOCK, 1, -1, 1)
  v = jnp.where(is_used, items.v, 0)  # as in `_few`
  weights = p.astype(v.dtype)
  weights = weights.reshape(*by_head, BLOCK, -1)
  out = product('rkgbs,bksh->rkgh', weights, v)
  return rescaled(state, top, p.sum(-1), out)
