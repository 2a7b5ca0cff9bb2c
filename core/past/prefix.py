"""A prompt's cache, read by several rows of responses.

B rows   P prompts   T new tokens
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys, attention
from core.past.base import Call
from core.past.cache import Cache


@struct.dataclass
class Prefix:
  """The cache of P prompts, each followed by B/P adjacent rows; it is neither copied as a whole nor extended."""

  cache: Cache

  @property
  def prompts(self) -> int:
    """P."""
    return self.cache.positions.shape[0]

  def check(self, call: Call) -> None:
    """Raises ValueError for a number of rows that is not a multiple of the prompts, and for segments."""
    if call.rows % self.prompts or call.has_segments:
      raise ValueError(f'a prefix of {self.prompts} rows takes a multiple of them (got {call.rows}), and no segments')

  def next_position(self, rows: int) -> jax.Array:
    """int32 [B, 1]."""
    return jnp.repeat(self.cache.next_position(self.prompts), rows // self.prompts, 0)

  def layers(self, positions: jax.Array) -> tuple:
    """`Keys` of each layer."""
    return (self.cache.keys(),)

  def attend(self, layer: Keys, q: jax.Array, new: Keys, **options: Any) -> tuple[jax.Array, None]:
    """As `Past.attend`."""
    rows_per_prompt = q.shape[0] // self.prompts
    runs = (layer.repeat(rows_per_prompt), new)
    return attention(q, runs, positions=new.positions, **options), None

  def append(self, kept: None, positions: jax.Array) -> 'Prefix':
    """The prefix itself: it is read only."""
    return self
