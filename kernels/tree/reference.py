"""The definition: one softmax over everything that a row reads.

R rows   N query heads   K key heads   G = N/K   H head size   W items   S tokens of a page
"""

import math

import jax
import jax.numpy as jnp


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`, every row by every item, masked."""
  r, n, h = q.shape
  _, heads, page_size, _ = v_pages.shape
  groups = n // heads
  wide = jnp.promote_types(q.dtype, jnp.float32)
  grouped = q.reshape(r, heads, groups, h)
  grouped = grouped.astype(wide)
  k = k_pages[plan.page].astype(wide)
  v = v_pages[plan.page].astype(wide)
  see = _sees(plan, page_size, window)  # [R, W, S]
  mask = see[:, None, None]
  products = jnp.einsum('rkgh,wkhs->rkgws', grouped, k)
  scores = products / math.sqrt(h)
  scores = jnp.where(mask, scores, -jnp.inf)
  weights, lse = _softmax(scores, sinks)
  is_used = see.any(0)[:, None, :, None]
  v = jnp.where(is_used, v, 0)  # 0 · NaN of an unused token is NaN
  out = jnp.einsum('rkgws,wksh->rkgh', weights, v)
  out = out.reshape(r, n, h)
  lse = lse.reshape(r, n)
  return out.astype(q.dtype), lse


def _softmax(scores, sinks):
  """(weights [R, K, G, W, S], log of the sum of exponentials [R, K, G, 1]); a sink takes part and is dropped.

  A row of scores that are all minus infinity has weights of 0.
  """
  by_head = scores.shape[:3]
  flat = scores.reshape(*by_head, -1)
  tokens = flat.shape[-1]
  if sinks is not None:
    flat = _with_sinks(flat, sinks)
  top = flat.max(-1, keepdims=True)
  is_finite = jnp.isfinite(top)
  shift = jnp.where(is_finite, top, 0)
  p = jnp.exp(flat - shift)
  total = p.sum(-1, keepdims=True)
  is_empty = total == 0
  divisor = jnp.where(is_empty, 1, total)
  weights = p / divisor
  weights = weights[..., :tokens]  # without the sink
  log_sum = top + jnp.log(divisor)
  lse = jnp.where(is_empty, -jnp.inf, log_sum)
  return weights.reshape(scores.shape), lse


def _with_sinks(scores, sinks):
  """Scores [R, K, G, T] with the sinks [N] of their heads as one more token."""
  *by_head, _ = scores.shape
  _, heads, groups = by_head
  sink = sinks.astype(scores.dtype)
  sink = sink.reshape(heads, groups, 1)
  column = jnp.broadcast_to(sink, (*by_head, 1))
  return jnp.concatenate([scores, column], -1)


def _sees(plan, page_size: int, window: int | None):
  """Whether row r sees token s of item w, bool [R, W, S]."""
  plan = jax.tree.map(jnp.asarray, plan)
  place = plan.place[:, None]
  after = plan.first + plan.readers
  reads = (place >= plan.first) & (place < after)  # [R, W]
  item = jnp.arange(plan.page.shape[0])
  is_listed = item < plan.ends[-1]
  reads = reads & is_listed
  offset = jnp.arange(page_size)
  token = plan.start[:, None] + offset  # [W, S]
  length = plan.lengths[:, None, None]
  is_past = token < length
  see = reads[:, :, None] & is_past
  if window is None:
    return see
  is_near = token >= length - window
  return see & is_near
