"""Attention in plain jnp: the definition, and the same computed in blocks of queries.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import jax
import jax.numpy as jnp

from core.attention import sizes
from core.attention.keys import MASKED, How, Keys, joined, visible
from core.padding import pad
from core.tap import Tap


def _scores(grouped, keys: Keys, mask, bias, divisor: float):
  """Masked float32 scores [B, K, G, T, S] of the grouped queries [B, K, G, T, H] against one run of keys."""
  dims = 'bkhs' if keys.columns else 'bksh'
  products = jnp.einsum(f'bkgth,{dims}->bkgts', grouped, keys.k, preferred_element_type=jnp.float32)
  scores = products / divisor
  if bias is not None:
    key_heads = grouped.shape[1]
    rows, _, t, s = bias.shape
    by_group = bias.astype(jnp.float32).reshape(rows, key_heads, -1, t, s)
    scores = scores + by_group
  if mask is not None:
    by_head = mask[:, None, None]
    scores = jnp.where(by_head, scores, MASKED)
  return scores


def _tapped(tap: Tap, site: str, x: jax.Array) -> jax.Array:
  """Grouped scores [B, K, G, T, S] through the tap, which sees [B, N, T, S]."""
  rows, _, _, time, length = x.shape
  by_head = x.reshape(rows, -1, time, length)
  return tap(site, by_head).reshape(x.shape)


def attend(q, runs, positions, segments, sinks, bias, *, how: How, tap: Tap | None = None, index=None):
  """As `core.attention.attention`: [B, T, N, H]. index: as of `keys.visible`."""
  b, t, n, h = q.shape
  key_heads = runs[0].k.shape[1]
  by_group = q.reshape(b, t, key_heads, n // key_heads, h)
  grouped = jnp.moveaxis(by_group, 1, 3)
  scores = []
  for keys in runs:
    mask = visible(positions, segments, keys, how, index)
    scores.append(_scores(grouped, keys, mask, bias, how.divisor))
  if tap is not None:
    scores = [_tapped(tap, 'scores', joined(scores, -1))]
  if sinks is not None:
    sink = sinks.astype(jnp.float32).reshape(1, key_heads, -1, 1, 1)
    *by_query, _ = scores[0].shape
    scores.append(jnp.broadcast_to(sink, (*by_query, 1)))
  # One softmax over all runs. A sink's column takes its share of the probability but has no value.
  weights = jax.nn.softmax(joined(scores, -1), -1)
  if tap is not None:
    length = sum(keys.v.shape[2] for keys in runs)
    weights = _tapped(tap, 'pattern', weights[..., :length])
  out = _weighted(weights.astype(q.dtype), runs)
  return jnp.moveaxis(out, 3, 1).reshape(b, t, n, h)


def _weighted(weights: jax.Array, runs) -> jax.Array:
  """The values of all runs, in order, summed by weights [B, K, G, T, S]: [B, K, G, T, H]."""
  out = 0
  start = 0
  for keys in runs:
    stop = start + keys.v.shape[2]
    part = weights[..., start:stop]
    out = out + jnp.einsum('bkgts,bksh->bkgth', part, keys.v)
    start = stop
  return out


def chunked(q, runs, positions, segments, sinks, bias, *, how: How):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  rows, t, *heads = q.shape
  blocks = -(-t // sizes.QUERY_BLOCK)
  length = blocks * sizes.QUERY_BLOCK

  def split(x, *, axis=1, fill=0):
    if x is None:
      return None
    x = pad(jnp.asarray(x), length, axis=axis, fill=fill)
    before = x.shape[:axis]
    after = x.shape[axis + 1 :]
    x = x.reshape(*before, blocks, sizes.QUERY_BLOCK, *after)
    return jnp.moveaxis(x, axis, 0)

  @jax.checkpoint
  def block(args):
    q, positions, segments, bias, index = args
    return attend(q, runs, positions, segments, sinks, bias, how=how, index=index)

  index = jnp.arange(t)[None]
  args = (
    split(q),
    split(positions, fill=-1),
    split(segments),
    split(bias, axis=2),
    split(index),
  )
  out = jax.lax.map(block, args)
  by_row = jnp.moveaxis(out, 0, 1)
  out = by_row.reshape(rows, length, *heads)
  return out[:, :t]
