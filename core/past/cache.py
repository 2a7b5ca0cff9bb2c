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
  """A contiguous cache. k, v: [L, B, K, S, H]; beside unstacked blocks, tuples of k [B, K, H, S] and v [B, K, S, H].

  Scanned layers only read it, and one write follows (whole caches passing through the scan would cost a second
  cache). An unstacked layer writes its tokens first and then attends: a buffer that is read before it is written
  again is copied by XLA at every step, and keys in columns multiply twice as fast on CPU.

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

  def layers(self, positions: jax.Array | None = None):
    """What `core.params.walk` hands to each layer: its `Keys`, with room for tokens at `positions` [B, T] if given."""
    if isinstance(self.k, tuple):
      slots = self.positions if positions is None else _put(self.positions, positions, self.length, 1)
      return tuple(Keys(k, v, slots, columns=True) for k, v in zip(self.k, self.v))
    spread = jnp.broadcast_to(self.positions, (self.k.shape[0], *self.positions.shape))
    return Keys(self.k, self.v, spread)


def _put(old, fresh, start, axis):
  return jax.lax.dynamic_update_slice_in_dim(old, fresh.astype(old.dtype), start, axis)


def _write(old: Keys, fresh: Keys, start) -> Keys:
  """`fresh` (in rows) written into `old` from slot `start` on."""
  k, axis = (jnp.swapaxes(fresh.k, -1, -2), -1) if old.columns else (fresh.k, -2)
  return old.replace(k=_put(old.k, k, start, old.k.ndim + axis), v=_put(old.v, fresh.v, start, old.v.ndim - 2))


def new(config, batch: int, capacity: int, dtype, *, unstacked: bool = False) -> Cache:
  """An empty cache for a decoder `config` (depth, kv_heads, head_dim)."""
  rows = (batch, config.kv_heads, capacity, config.head_dim)
  columns = (batch, config.kv_heads, config.head_dim, capacity)
  if unstacked:
    k, v = (tuple(jnp.zeros(shape, dtype) for _ in range(config.depth)) for shape in (columns, rows))
  else:
    k, v = (jnp.zeros((config.depth, *rows), dtype) for _ in range(2))
  return Cache(k, v, jnp.full((batch, capacity), -1, jnp.int32), jnp.int32(0))


def extend(past: Keys | None, fresh: Keys, start) -> tuple[tuple[Keys, ...], Keys]:
  """One layer's step: (the runs its queries attend to, what it hands to `append`)."""
  if past is None or not past.columns:
    return (fresh,) if past is None else (past, fresh), Keys(fresh.k, fresh.v)
  written = _write(past, fresh, start)
  return (written,), Keys(written.k, written.v, columns=True)


def append(cache: Cache, new: Keys, positions: jax.Array) -> Cache:
  """The cache with one more run of tokens; `new` as `extend` returned it, over all layers.

  positions: int32 [B, T], -1 for padding.
  """
  if isinstance(cache.k, tuple) and not new.columns:
    layers = [
      _write(Keys(k, v, columns=True), Keys(*fresh), cache.length)
      for k, v, *fresh in zip(cache.k, cache.v, new.k, new.v)
    ]
    new = Keys(tuple(x.k for x in layers), tuple(x.v for x in layers))
  elif not new.columns:
    new = _write(Keys(cache.k, cache.v), new, cache.length)
  return Cache(new.k, new.v, _put(cache.positions, positions, cache.length, 1), cache.length + positions.shape[1])
