"""Attention in plain jnp: the definition, and the same in blocks of queries.

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
  scores = jnp.einsum(f'bkgth,{dims}->bkgts', grouped, keys.k, preferred_element_type=jnp.float32)
  scores = scores / divisor
  if bias is not None:
    rows, _, t, s = bias.shape
    scores = scores + bias.astype(jnp.float32).reshape(rows, grouped.shape[1], -1, t, s)
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, MASKED)
  return scores


def _tapped(tap: Tap, site: str, x: jax.Array) -> jax.Array:
  """Grouped scores [B, K, G, T, S] through the tap, which sees [B, N, T, S]."""
  rows, _, _, time, length = x.shape
  return tap(site, x.reshape(rows, -1, time, length)).reshape(x.shape)


def attend(q, runs, positions, segments, sinks, bias, *, how: How, tap: Tap | None = None, index=None):
  """As `core.attention.attention`: [B, T, N, H]. index: as of `keys.visible`."""
  b, t, n, h = q.shape
  key_heads = runs[0].k.shape[1]
  grouped = jnp.moveaxis(q.reshape(b, t, key_heads, n // key_heads, h), 1, 3)
  scores = []
  for keys in runs:
    mask = visible(positions, segments, keys, how, index)
    scores.append(_scores(grouped, keys, mask, bias, how.divisor))
  if tap is not None:
    scores = [_tapped(tap, 'scores', joined(scores, -1))]
  if sinks is not None:
    column = sinks.astype(jnp.float32).reshape(1, key_heads, -1, 1, 1)
    scores.append(jnp.broadcast_to(column, (*scores[0].shape[:-1], 1)))
  # One softmax over all runs. A sink's column takes its share of the probability but has no value.
  weights = jax.nn.softmax(joined(scores, -1), -1)
  if tap is not None:
    length = sum(keys.v.shape[2] for keys in runs)
    weights = _tapped(tap, 'pattern', weights[..., :length])
  weights = weights.astype(q.dtype)
  out = 0
  start = 0
  for keys in runs:
    stop = start + keys.v.shape[2]
    out = out + jnp.einsum('bkgts,bksh->bkgth', weights[..., start:stop], keys.v)
    start = stop
  return jnp.moveaxis(out, 3, 1).reshape(b, t, n, h)


def chunked(q, runs, positions, segments, sinks, bias, *, how: How):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  t = q.shape[1]
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

  index = split(jnp.arange(t)[None])
  out = jax.lax.map(block, (split(q), split(positions, fill=-1), split(segments), split(bias, axis=2), index))
  rows, _, *heads = q.shape
  out = jnp.moveaxis(out, 0, 1).reshape(rows, length, *heads)
  return out[:, :t]
