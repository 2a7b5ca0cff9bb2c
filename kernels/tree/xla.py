"""The portable form: a loop over blocks of items with a running softmax; its length is traced, its shape fixed.

R rows   B items of a block   C rows of an item   N query heads   K key heads   G = N/K   H head size   S page size
"""

import math

import jax
import jax.numpy as jnp

from kernels.tree.plan import BLOCK, Items

MASKED = -1e30  # finite: the difference of two of them is 0, not NaN


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`."""
  r, n, h = q.shape
  heads = k_pages.shape[1]
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  grouped = (q.astype(dtype) / math.sqrt(h)).astype(q.dtype).reshape(r, heads, n // heads, h)
  top = jnp.full(grouped.shape[:3], MASKED, dtype)
  total = jnp.zeros_like(top)
  if sinks is not None:
    top, total = jnp.broadcast_to(sinks.astype(dtype).reshape(heads, -1), top.shape), jnp.ones_like(top)
  state = top, total, jnp.zeros(grouped.shape, dtype)
  lengths = jnp.asarray(plan.lengths)
  for items in plan.items:
    part = _all if items.rows.shape[1] == r else _few

    def block(i, state, items=items, part=part):
      cut = lambda x: jax.lax.dynamic_slice_in_dim(x, i * BLOCK, BLOCK)
      piece = Items(cut(items.page), cut(items.start), cut(items.rows), items.count)
      return part(state, grouped, k_pages, v_pages, piece, lengths, window)

    items = jax.tree.map(jnp.asarray, items)
    state = jax.lax.fori_loop(0, (items.count + BLOCK - 1) // BLOCK, block, state)
  top, total, out = state
  lse = jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)
  out = out / jnp.where(total > 0, total, 1)[..., None]
  return out.reshape(r, n, h).astype(q.dtype), lse.reshape(r, n)


def _sees(items: Items, page_size, length, window):
  """Which tokens of each page a row sees, bool [..., B, S]; it reads `length` [..., B or 1, 1] tokens."""
  token = items.start[:, None] + jnp.arange(page_size)
  see = token < length
  return see if window is None else see & (token >= length - window)


def _few(state, q, k_pages, v_pages, items: Items, lengths, window):
  """Each item with its own rows; the parts are summed into rows by a product with a 0/1 matrix."""
  r = q.shape[0]
  rows = jnp.minimum(items.rows, r - 1)
  length = jnp.where(items.rows < r, lengths[rows], 0).T[..., None]  # [C, B, 1]
  see = jnp.moveaxis(_sees(items, v_pages.shape[2], length, window), 0, 1)  # [B, C, S]
  s = jnp.einsum('bckgh,bkhs->bkcgs', q[rows], k_pages[items.page], preferred_element_type=state[0].dtype)
  mask = see[:, None, :, None]
  s = jnp.where(mask, s, MASKED)
  top = s.max(-1)
  p = jnp.where(mask, jnp.exp(s - top[..., None]), 0)
  v = jnp.where(see.any(1)[:, None, :, None], v_pages[items.page], 0)  # 0 · NaN of an unused token is NaN
  out = jnp.einsum('bkcgs,bksh->bkcgh', p.astype(v.dtype), v, preferred_element_type=state[0].dtype)
  flat = lambda x: jnp.moveaxis(x, 1, 2).reshape(-1, x.shape[1], *x.shape[3:])  # [B * C, K, G, ...]
  return _merge(state, flat(top), flat(p.sum(-1)), flat(out), items.rows.reshape(-1))


def _merge(state, top, total, out, rows):
  was, sums, acc = state
  mine = rows == jnp.arange(was.shape[0])[:, None]  # [R, B * C]
  now = jnp.maximum(was, jnp.where(mine[..., None, None], top, MASKED).max(1))
  scale = jnp.exp(top - jnp.maximum(now[jnp.minimum(rows, was.shape[0] - 1)], top))
  keep = jnp.exp(was - now)
  mine = mine.astype(was.dtype)
  return (
    now,
    sums * keep + jnp.einsum('rx,xkg->rkg', mine, total * scale),
    acc * keep[..., None] + jnp.einsum('rx,xkgh->rkgh', mine, out * scale[..., None]),
  )


def _all(state, q, k_pages, v_pages, items: Items, lengths, window):
  """All rows by all tokens of the block in one product."""
  was, sums, acc = state
  see = _sees(items, v_pages.shape[2], lengths[:, None, None], window) & (items.rows < q.shape[0]).T[..., None]
  see = see.reshape(q.shape[0], -1)  # [R, B * S]
  s = jnp.einsum('rkgh,bkhs->rkgbs', q, k_pages[items.page], preferred_element_type=was.dtype)
  s = jnp.where(see[:, None, None], s.reshape(*s.shape[:3], -1), MASKED)
  now = jnp.maximum(was, s.max(-1))
  p = jnp.where(see[:, None, None], jnp.exp(s - now[..., None]), 0)
  v = jnp.where(see.any(0).reshape(BLOCK, 1, -1, 1), v_pages[items.page], 0)
  keep = jnp.exp(was - now)
  weights = p.astype(v.dtype).reshape(*p.shape[:3], BLOCK, -1)
  part = jnp.einsum('rkgbs,bksh->rkgh', weights, v, preferred_element_type=was.dtype)
  return now, sums * keep + p.sum(-1), acc * keep[..., None] + part
