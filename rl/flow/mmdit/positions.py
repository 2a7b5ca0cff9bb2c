"""Positions of patches: SD3's table of sinusoids, and FLUX.1's rotary positions on three axes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from core.layers import rope_frequencies

PERIOD = 10_000.0  # longest of the table's sinusoids, over 2π


def _waves(coordinates: np.ndarray, width: int) -> np.ndarray:
  """Sines, then cosines [size, width] of coordinates [size]."""
  half = width // 2
  exponents = -np.arange(half) / half
  frequencies = PERIOD**exponents
  angles = np.outer(coordinates, frequencies)
  return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def sinusoid_table(size: int, width: int, extent: int) -> np.ndarray:
  """float32 [size (row), size (column), width]: the first half of the width encodes the column, the second the row."""
  # The coordinates are float32 as published; what follows is float64.
  index = np.arange(size, dtype=np.float32)
  coordinates = index / np.float32(size / extent)
  half = width // 2
  one_axis = _waves(coordinates.astype(np.float64), half)
  shape = (size, size, half)
  columns = np.broadcast_to(one_axis[None], shape)
  rows = np.broadcast_to(one_axis[:, None], shape)
  table = np.concatenate([columns, rows], -1)
  return table.astype(np.float32)


def initialiser(extent: int) -> Callable:
  """Initialiser of the table: it has no random part."""

  def table(key, shape, dtype):
    size, _, width = shape
    return jnp.asarray(sinusoid_table(size, width, extent), dtype)

  return table


def crop(table: jax.Array, rows: int, columns: int) -> jax.Array:
  """The centre [1, rows · columns, D] of a table [size, size, D].

  Raises ValueError for a grid larger than the table.
  """
  size = table.shape[0]
  if rows > size or columns > size:
    raise ValueError(f'a grid of {rows} x {columns} patches; the table of positions has {size} x {size}')
  top = (size - rows) // 2
  left = (size - columns) // 2
  bottom = top + rows
  right = left + columns
  centre = table[top:bottom, left:right]
  return centre.reshape(1, rows * columns, -1)


def rope(text: int, rows: int, columns: int, axes: tuple[int, ...], theta: float) -> tuple[jax.Array, jax.Array]:
  """cos and sin, float32 [T, 1, H/2], of `text` text tokens, all at the origin, then the patches by rows.

  Each axis (text, row, column) turns its own pairs of a head; angles are computed in float64.
  """
  count = len(axes)
  grid = np.zeros((rows, columns, count))
  grid[..., 1] = np.arange(rows)[:, None]
  grid[..., 2] = np.arange(columns)
  patches = grid.reshape(-1, count)
  origin = np.zeros((text, count))
  places = np.concatenate([origin, patches])
  angles = []
  for coordinates, size in zip(places.T, axes):
    frequencies = rope_frequencies(size, theta)
    angles.append(np.outer(coordinates, frequencies))
  joined = np.concatenate(angles, -1)[:, None]
  cos = np.cos(joined)
  sin = np.sin(joined)
  return jnp.asarray(cos, jnp.float32), jnp.asarray(sin, jnp.float32)
