"""The definition: one softmax over everything that a row reads.

R rows   N query heads   K key heads   G = N/K   H head size   W items   S tokens of a page
"""

import math

import jax.numpy as jnp


def run(q, k_pages, v_pages, plan, sinks, *, window):
  """As `kernels.tree_attention`, every row by every item, masked."""
  r, n, h = q.shape
  heads, page_size = v_pages.shape[1:3]
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  grouped = q.reshape(r, heads, n // heads, h).astype(dtype)
  length = jnp.asarray(plan.lengths)[:, None, None]
  scores, values, seen = [], [], []
  for items in plan.items:
    k, v = (x[items.page].astype(dtype) for x in (k_pages, v_pages))
    token = items.start[:, None] + jnp.arange(page_size)  # [W, S]
    there = jnp.arange(k.shape[0]) < items.count
    reads = there & (jnp.asarray(items.rows) == jnp.arange(r)[:, None, None]).any(-1)  # [R, W]
    see = reads[:, :, None] & (token < length)
    if window is not None:
      see &= token >= length - window
    s = jnp.einsum('rkgh,wkhs->rkgws', grouped, k) / math.sqrt(h)
    scores.append(jnp.where(see[:, None, None], s, -jnp.inf).reshape(*s.shape[:3], -1))
    values.append(jnp.where(see.any(0)[:, None, :, None], v, 0))
    seen.append(see)
  if sinks is not None:
    scores.append(jnp.broadcast_to(sinks.reshape(heads, -1, 1).astype(dtype), (*scores[0].shape[:3], 1)))
  scores = jnp.concatenate(scores, -1)
  top = scores.max(-1, keepdims=True)
  p = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0))
  total = p.sum(-1, keepdims=True)
  p = p / jnp.where(total == 0, 1, total)
  out, at = 0, 0
  for v in values:
    w, _, s, _ = v.shape
    out = out + jnp.einsum('rkgws,wksh->rkgh', p[..., at : at + w * s].reshape(*p.shape[:3], w, s), v)
    at += w * s
  lse = jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))
  return out.reshape(r, n, h).astype(q.dtype), lse.reshape(r, n)
