"""No earlier tokens, and nothing kept of the new ones."""

from typing import Any

import jax
from flax import struct

from core.attention import Keys, attention
from core.past.base import Call


@struct.dataclass
class Nothing:
  """A forward pass without earlier tokens, as in training."""

  def check(self, call: Call) -> None:
    """Raises ValueError for segments without positions."""
    if call.has_segments and not call.has_positions:
      raise ValueError('segments need positions: those of each packed sample start at 0, and are -1 at padding')

  def next_position(self, rows: int) -> int:
    """Positions start at 0."""
    return 0

  def layers(self, positions: jax.Array) -> tuple:
    """Layers have no cache."""
    return ()

  def attend(self, layer: None, q: jax.Array, new: Keys, **options: Any) -> tuple[jax.Array, None]:
    """As `Past.attend`."""
    out = attention(q, (new,), positions=new.positions, segments=new.segments, **options)
    return out, None

  def append(self, kept: None, positions: jax.Array) -> None:
    """Nothing is kept."""
    return
