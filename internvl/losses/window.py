"""The last values of a stream and their percentile, as a fixed-size array that a jitted step carries."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Window:
  """A ring of the last values.

  values: float32 [size], NaN where none has come yet. cursor: int32 [], where the next one goes.
  """

  values: Any
  cursor: Any


def empty(size: int) -> Window:
  """A window without values."""
  return Window(values=jnp.full(size, jnp.nan, jnp.float32), cursor=jnp.int32(0))


def push(window: Window, values: jax.Array, valid: jax.Array) -> Window:
  """The window after `values`, float of any shape, where `valid`; the oldest are overwritten.

  Raises ValueError if the window is too small for all of them.
  """
  size = window.values.size
  if values.size > size:
    raise ValueError(f'window={size}: expected at least the {values.size} tiles of a micro-batch')
  chosen = valid.ravel()
  order = jnp.cumsum(chosen) - 1
  place = jnp.where(chosen, (window.cursor + order) % size, size)  # `size` is out of bounds, so dropped
  ring = window.values.at[place].set(values.ravel().astype(jnp.float32), mode='drop')
  cursor = (window.cursor + chosen.sum()) % size
  return Window(values=ring, cursor=cursor.astype(jnp.int32))


def percentile(window: Window, k: float) -> jax.Array:
  """The k-th percentile of the values so far, float32 []; NaN when there are none."""
  return jnp.nanpercentile(window.values, k)
