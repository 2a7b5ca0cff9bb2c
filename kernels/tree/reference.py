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
  k = k_pages[plan.page].astype(dtype)
  v = v_pages[plan.page].astype(dtype)
  products = jnp.einsum('rkgh,wkhs->rkgws', grouped, k)
  scores = products / math.sqrt(h)
  scores = jnp.where(see[:, None, None], scores, -jnp.inf)
  weights, lse = _softmax(scores, sinks)
  is_used = see.any(0)[:, None, :, None]
  v = jnp.where(is_used, v, 0)  # 0 · NaN of an unused token is NaN
  out = jnp.einsum('rkgws,wksh->rkgh', weights, v)
  return out.reshape(r, n, h).astype(q.dtype), lse.reshape(r, n)


def _softmax(scores, sinks):
  """(weights [R, K, G, W, S], log of the sum of exponentials [R, K, G, 1]); a sink takes part and is dropped.

  A row of scores that are all minus infinity has weights of 0.
  """
  rows = scores.shape[:3]
  flat = scores.reshape(*rows, -1)
  tokens = flat.shape[-1]
  if sinks is not None:
    by_head = sinks.reshape(*rows[1:], 1).astype(flat.dtype)
    sunk = jnp.broadcast_to(by_head, (*rows, 1))
    flat = jnp.concatenate([flat, sunk], -1)
  top = flat.max(-1, keepdims=True)
  shift = jnp.where(jnp.isfinite(top), top, 0)
  p = jnp.exp(flat - shift)
  total = p.sum(-1, keepdims=True)
  is_empty = total == 0
  divisor = jnp.where(is_empty, 1, total)
  shares = p / divisor
  weights = shares[..., :tokens].reshape(scores.shape)
  lse = jnp.where(is_empty, -jnp.inf, top + jnp.log(divisor))
  return weights, lse


def _sees(plan, page_size: int, window: int | None):
  """Whether row r sees token s of item w, bool [R, W, S]."""
  place = jnp.asarray(plan.place)[:, None]
  length = jnp.asarray(plan.lengths)[:, None, None]
  first = jnp.asarray(plan.first)
  last = first + plan.readers
  item = jnp.arange(plan.page.shape[0])
  is_listed = item < jnp.asarray(plan.ends)[-1]
  reads = (place >= first) & (place < last) & is_listed  # [R, W]
  token = jnp.asarray(plan.start)[:, None] + jnp.arange(page_size)
  see = reads[:, :, None] & (token < length)
  if window is None:
    return see
  return see & (token >= length - window)
