"""The definition: one softmax over everything that a row reads.

R rows   N query heads   K key heads   G = N/K   H head size   W items   S tokens of an item
"""

import math

import jax.numpy as jnp


def run(q, k_pages, v_pages, plan, *, window, sinks):
  """As `kernels.tree_attention`, every row by every item, masked."""
  r, n, h = q.shape
  heads, page_size = k_pages.shape[1:3]
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  grouped = q.reshape(r, heads, n // heads, h).astype(dtype)
  length = jnp.asarray(plan.lengths)[:, None, None]
  scores, values, seen = [], [], []
  for items in plan.items:
    pages = jnp.asarray(items.pages)
    k, v = (jnp.moveaxis(x[jnp.maximum(pages, 0)].astype(dtype), 2, 1) for x in (k_pages, v_pages))  # [W, K, P, page, H]
    k, v = (x.reshape(*x.shape[:2], -1, h) for x in (k, v))
    token = items.start[:, None] + jnp.arange(k.shape[2])  # [W, S]
    reads = (jnp.asarray(items.rows) == jnp.arange(r)[:, None, None]).any(-1)  # [R, W]
    see = reads[:, :, None] & jnp.repeat(pages >= 0, page_size, 1) & (token < length)
    if window is not None:
      see &= token >= length - window
    s = jnp.einsum('rkgh,wksh->rkgws', grouped, k) / math.sqrt(h)
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
    out = out + jnp.einsum('rkgws,wksh->rkgh', p[..., at:at + w * s].reshape(*p.shape[:3], w, s), v)
    at += w * s
  lse = jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))
  return out.reshape(r, n, h).astype(q.dtype), lse.reshape(r, n)
