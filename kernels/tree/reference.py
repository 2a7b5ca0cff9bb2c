"""The definition: one softmax over everything that a row reads.

R rows   N query heads   K key heads   G = N/K   H head size   W items   S tokens of a page
"""

import math

import jax.numpy as jnp


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`, every row by every item, masked."""
  r, n, h = q.shape
  heads = v_pages.shape[1]
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  grouped = q.reshape(r, heads, n // heads, h).astype(dtype)
  see = _sees(plan, v_pages.shape[2], window)  # [R, W, S]
  k, v = (pages[plan.page].astype(dtype) for pages in (k_pages, v_pages))
  scores = jnp.einsum('rkgh,wkhs->rkgws', grouped, k) / math.sqrt(h)
  scores = jnp.where(see[:, None, None], scores, -jnp.inf).reshape(*grouped.shape[:3], -1)
  v = jnp.where(see.any(0)[:, None, :, None], v, 0)  # 0 · NaN of an unused token is NaN
  tokens = scores.shape[-1]
  if sinks is not None:
    sunk = jnp.broadcast_to(sinks.reshape(heads, -1, 1).astype(dtype), (*scores.shape[:3], 1))
    scores = jnp.concatenate([scores, sunk], -1)
  top = scores.max(-1, keepdims=True)
  p = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0))
  total = p.sum(-1, keepdims=True)
  divisor = jnp.where(total == 0, 1, total)
  weights = (p / divisor)[..., :tokens].reshape(*scores.shape[:3], *see.shape[1:])
  out = jnp.einsum('rkgws,wksh->rkgh', weights, v)
  lse = jnp.where(total == 0, -jnp.inf, top + jnp.log(divisor))
  return out.reshape(r, n, h).astype(q.dtype), lse.reshape(r, n)


def _sees(plan, page_size: int, window: int | None):
  """Whether row r sees token s of item w, bool [R, W, S]."""
  place, length = (jnp.asarray(x)[:, None] for x in (plan.place, plan.lengths))
  item = jnp.arange(plan.page.shape[0])
  last = jnp.asarray(plan.first) + plan.readers
  reads = (place >= plan.first) & (place < last) & (item < jnp.asarray(plan.ends)[-1])  # [R, W]
  token = jnp.asarray(plan.start)[:, None] + jnp.arange(page_size)
  see = reads[:, :, None] & (token < length[:, :, None])
  return see if window is None else see & (token >= length[:, :, None] - window)
