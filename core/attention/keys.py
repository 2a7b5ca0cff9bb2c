"""Runs of keys, and which keys a query sees.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from core.attention.subtrees import Subtrees

MASKED = -1e30  # finite, so a row that sees nothing does not become NaN


@struct.dataclass
class Keys:
  """A run of keys and values, [B, K, S, H]; `positions` int32 [B, S], negative at padding, None without padding.

  `segments` int32 [B, S] separates packed samples (0 is padding). `subtrees`: the run is packed trees, and the queries
  are its own tokens. `columns`: k is [B, K, H, S].
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array | None = None
  segments: jax.Array | None = None
  subtrees: Subtrees | None = None
  columns: bool = struct.field(pytree_node=False, default=False)

  def repeat(self, times: int) -> 'Keys':
    """Each row repeated `times` times, the copies adjacent."""
    if times == 1:
      return self
    return jax.tree.map(lambda x: jnp.repeat(x, times, 0), self)


@dataclasses.dataclass(frozen=True)
class How:
  """The static part of a call."""

  causal: bool
  window: int | None
  divisor: float  # of the scores
  rules: dict


def visible(positions, segments, keys: Keys, how: How, index=None) -> jax.Array | None:
  """Bool [B, T or 1, S], the keys each query sees; None if it sees all.

  index: int32 [B or 1, T], of the queries among packed trees, where it is not 0..T-1.
  """
  if keys.positions is None:
    return None
  key_positions = keys.positions[:, None, :]
  sees = key_positions >= 0
  if how.causal:
    sees = sees & (key_positions <= positions[:, :, None])
  if how.window is not None:
    distance = positions[:, :, None] - key_positions
    sees = sees & (distance < how.window)
  if segments is not None:
    sees = sees & (segments[:, :, None] == keys.segments[:, None, :])
  if keys.subtrees is not None:
    if index is None:
      index = jnp.arange(positions.shape[1])[None]
    sees = sees & keys.subtrees.visible(index)
  return sees


def joined(parts: list[jax.Array], axis: int) -> jax.Array:
  """Parts of equal shape but for `axis`, concatenated along it; a single one is not copied."""
  if len(parts) > 1:
    return jnp.concatenate(parts, axis)
  return parts[0]
