"""Attention to all keys on a CPU: the scores of one head and a few queries at a time stay in a core's cache.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import jax
import jax.numpy as jnp

from core.attention import sizes
from core.attention.keys import How
from core.padding import pad

SHORTEST = 512  # keys; fewer are as fast whole


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """As `core.attention.attention`, of one run of keys that every query sees: [B, T, N, H].

  The backward pass computes a tile's weights again.
  """
  (keys,) = runs
  rows, time, heads, size = q.shape
  key_heads, length = keys.k.shape[1:3]
  count = heads // key_heads * time  # queries of a key head: no mask tells those of its query heads apart
  tiles = -(-count // sizes.TILE)
  scaled = q / how.divisor
  by_head = jnp.swapaxes(scaled, 1, 2).reshape(rows * key_heads, count, size)
  queries = pad(by_head, tiles * sizes.TILE, axis=1)
  out = jax.lax.map(
    _head,
    (
      queries.reshape(-1, tiles, sizes.TILE, size),
      keys.k.reshape(-1, length, size),
      keys.v.reshape(-1, length, size),
    ),
  )
  averages = out.reshape(rows * key_heads, -1, size)[:, :count]
  return jnp.swapaxes(averages.reshape(rows, heads, time, size), 1, 2)


def _head(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
  """One key head: tiles of queries [tiles, TILE, H] over k, v [S, H]."""
  queries, k, v = arrays

  @jax.checkpoint
  def tile(q: jax.Array) -> jax.Array:
    scores = jnp.einsum('th,sh->ts', q, k, preferred_element_type=jnp.float32)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    summed = jnp.einsum('ts,sh->th', weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    # Averages are divided, not weights: there are fewer of them.
    return (summed / total).astype(q.dtype)

  return jax.lax.map(tile, queries)


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  if len(runs) != 1 or runs[0].columns:
    return 'tiles are of one run of keys in rows, not of a cache'
  if how.causal or runs[0].positions is not None or segments is not None:
    return 'tiles are of queries that see every key'
  if sinks is not None or bias is not None:
    return 'tiles are used without sinks and additive bias'
  return None


def decline(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation is not faster than the reference; None if it is."""
  length = runs[0].k.shape[2]
  if length < SHORTEST:
    return f'{length} keys are as fast whole'
  if jax.sharding.get_abstract_mesh().size > 1:
    return 'rows and heads are sharded, and tiles go through them one by one'
  return None
