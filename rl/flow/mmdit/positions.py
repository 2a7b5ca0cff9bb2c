"""Where a patch is: SD3's table of sinusoids, and FLUX.1's rotary positions on three axes."""

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
  angles = np.outer(coordinates, PERIOD**exponents)
  return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def sinusoid_table(size: int, width: int, extent: int) -> np.ndarray:
  """float32 [size (row), size (column), width]: the first half of the width encodes the column, the second the row."""
  # The coordinates are float32 as published; what follows is float64.
  at = np.arange(size, dtype=np.float32) / np.float32(size / extent)
  half = width // 2
  one_axis = _waves(at.astype(np.float64), half)
  shape = (size, size, half)
  columns = np.broadcast_to(one_axis[None], shape)
  rows = np.broadcast_to(one_axis[:, None], shape)
  table = np.concatenate([columns, rows], -1)
  return table.astype(np.float32)


def initialiser(extent: int) -> Callable:
  """Initialiser of the table: it has no random part."""
  return lambda key, shape, dtype: jnp.asarray(sinusoid_table(shape[0], shape[2], extent), dtype)


def crop(table: jax.Array, rows: int, columns: int) -> jax.Array:
  """The centre [1, rows · columns, D] of a table [size, size, D].

  Raises ValueError for a grid larger than the table.
  """
  size = table.shape[0]
  if rows > size or columns > size:
    raise ValueError(f'a grid of {rows} x {columns} patches; the table of positions has {size} x {size}')
  top = (size - rows) // 2
  left = (size - columns) // 2
  centre = table[top : top + rows, left : left + columns]
  return centre.reshape(1, rows * columns, -1)


def rope(text: int, rows: int, columns: int, axes: tuple[int, ...], theta: float) -> tuple[jax.Array, jax.Array]:
  """cos and sin, float32 [T, 1, H/2], of `text` text tokens, all at the origin, then the patches by rows.

  Each axis (text, row, column) turns its own pairs of a head; angles are computed in float64.
  """
  grid = np.zeros((rows, columns, len(axes)))
  grid[..., 1] = np.arange(rows)[:, None]
  grid[..., 2] = np.arange(columns)
  origin = np.zeros((text, len(axes)))
  places = np.concatenate([origin, grid.reshape(-1, len(axes))])
  angles = []
  for axis, size in enumerate(axes):
    frequencies = rope_frequencies(size, theta)
    angles.append(np.outer(places[:, axis], frequencies))
  joined = np.concatenate(angles, -1)[:, None]
  cos = jnp.asarray(np.cos(joined), jnp.float32)
  sin = jnp.asarray(np.sin(joined), jnp.float32)
  return cos, sin
