"""Key-value caches as values.

L layers   B rows   K key heads   S slots   H head size
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys


@struct.dataclass
class Cache:
  """A contiguous cache. k, v: [L, B, K, S, H], or a tuple of L arrays [B, K, S, H] beside unstacked blocks.

  positions: int32 [B, S], -1 where a slot is empty or holds padding, so rows may be padded on either side.
  length: int32 [], slots written; the same for all rows.
  """

  k: Any
  v: Any
  positions: jax.Array
  length: jax.Array

  @property
  def capacity(self) -> int:
    """Number of slots."""
    return self.positions.shape[1]

  def layers(self):
    """What `core.params.walk` hands to each layer: its `Keys`."""
    if isinstance(self.k, tuple):
      return tuple(Keys(k, v, self.positions) for k, v in zip(self.k, self.v))
    spread = jnp.broadcast_to(self.positions, (self.k.shape[0], *self.positions.shape))
    return Keys(self.k, self.v, spread)


def new(config, batch: int, capacity: int, dtype, *, unstacked: bool = False) -> Cache:
  """An empty cache for a decoder `config` (depth, kv_heads, head_dim)."""
  shape = (batch, config.kv_heads, capacity, config.head_dim)
  if unstacked:
    buffers = lambda: tuple(jnp.zeros(shape, dtype) for _ in range(config.depth))
  else:
    buffers = lambda: jnp.zeros((config.depth, *shape), dtype)
  return Cache(buffers(), buffers(), jnp.full((batch, capacity), -1, jnp.int32), jnp.int32(0))


def append(cache: Cache, k: Any, v: Any, positions: jax.Array) -> Cache:
  """Writes new keys and values [L, B, K, T, H] (or a tuple) at the end; `positions` int32 [B, T], -1 for padding.

  One write after all layers: passing whole caches through the layer scan would cost a second cache.
  """
  write = lambda old, fresh: jax.lax.dynamic_update_slice_in_dim(
      old, fresh.astype(old.dtype), cache.length, axis=old.ndim - 2)
  slots = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions.astype(jnp.int32), cache.length, axis=1)
  return Cache(jax.tree.map(write, cache.k, k), jax.tree.map(write, cache.v, v), slots,
               cache.length + positions.shape[1])
