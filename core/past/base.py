"""What a decoder asks of the keys and values of earlier tokens.

B rows   T new tokens   N query heads   K key heads   H head size
"""

import dataclasses
from typing import Any, Protocol

import jax

from core.attention import Keys


@dataclasses.dataclass(frozen=True)
class Call:
  """One forward pass as its `Past` checks it."""

  rows: int
  tokens: int
  unstacked: bool  # blocks are a tuple, not stacked
  has_positions: bool
  has_segments: bool  # packed samples or trees


class Past(Protocol):
  """Keys and values of earlier tokens."""

  def check(self, call: Call) -> None:
    """Raises ValueError if such a call cannot follow these earlier tokens."""

  def next_position(self, rows: int) -> jax.Array | int:
    """The position of the first new token, int32 [rows, 1], or 0."""

  def layers(self, positions: jax.Array) -> tuple:
    """The part of each layer, as the `per_layer` arguments of `core.params.walk`; positions: int32 [B, T], of the new
    tokens."""

  def attend(self, layer: Any, q: jax.Array, new: Keys, **options: Any) -> tuple[jax.Array, Any]:
    """Attention of q [B, T, N, H] to the past and to `new`, the keys of the same tokens.

    layer: one layer's part of `layers` (None where that is empty). options: window, sinks, implementation, rules and
    tap, as in `core.attention.attention`. Returns (output [B, T, N, H], this layer's part of what `append` takes).
    """

  def append(self, kept: Any, positions: jax.Array) -> 'Past | None':
    """The past with the new tokens at `positions` int32 [B, T]; `kept` as `attend` returned it, over all layers."""
