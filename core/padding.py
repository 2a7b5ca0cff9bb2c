"""Padding to fixed shapes, so that batches of many lengths share a few compiled programs.

B rows   T length of the batch   n length of one row
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Side = Literal['left', 'right']


def bucket(n: int, smallest: int = 32) -> int:
  """The smallest of `smallest` · 1, 3/2, 2, 3, 4, 6, … that is at least n; `smallest` is a power of two.

  From 1 the sizes are 1, 2, 3, 4, 6, …: there is no whole number between 1 and 2.
  """
  size = smallest
  while size < n:
    is_power_of_two = size & (size - 1) == 0
    if size == 1:
      size = 2
    elif is_power_of_two:
      size = size * 3 // 2
    else:
      size = size // 3 * 4
  return size


def pad(x: Any, length: int, *, axis: int = 0, side: Side = 'right', fill: Any = 0, what: str = 'array') -> Any:
  """`x` padded with `fill` to `length` along `axis`; NumPy arrays stay on the host, JAX arrays are traced.

  Raises ValueError, naming `what`, if `x` is longer than `length`.
  """
  missing = length - x.shape[axis]
  check_fits(x.shape[axis], length, what)
  if missing == 0:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, missing) if side == 'right' else (missing, 0)
  xp = jnp if isinstance(x, jax.Array) else np
  return xp.pad(x, widths, constant_values=fill)


def batch(
  rows: Sequence[Any],
  *,
  dtype: Any,
  length: int | None = None,
  count: int | None = None,
  side: Side = 'right',
  fill: Any = 0,
  what: str = 'row',
) -> np.ndarray:
  """Ragged rows [n, ...] as one host array [B, T, ...] of `dtype`, padded with `fill`.

  length: T; None takes the bucket of the longest row. count: B, with empty rows at the end if fewer are given; None
  takes the number given. Raises ValueError, naming `what`, for a row longer than `length`, too many rows, or no rows
  and no `count`.
  """
  arrays = [np.asarray(row) for row in rows]
  if not arrays and count is None:
    raise ValueError(f'no {what} to pad: expected at least one, or a count')
  longest = max(map(len, arrays), default=0)
  if length is None:
    length = bucket(longest)
  if count is None:
    count = len(arrays)
  check_fits(longest, length, f'the longest {what}')
  check_fits(len(arrays), count, f'the batch of {what}s')
  trailing = ()
  if arrays:
    trailing = arrays[0].shape[1:]
  out = np.full((count, length, *trailing), fill, dtype)
  for i, row in enumerate(arrays):
    start = 0 if side == 'right' else length - len(row)
    out[i, start : start + len(row)] = row
  return out


def repeat_last(x: np.ndarray, length: int) -> np.ndarray:
  """`x` [n, ...] padded to `length` rows with copies of its last one, which need no special case downstream."""
  check_fits(len(x), length, 'array')
  copies = np.repeat(x[-1:], length - len(x), 0)
  return np.concatenate([x, copies])


def positions(lengths: Sequence[int], length: int, *, side: Side = 'right') -> np.ndarray:
  """int32 [B, T]: 0..n-1 at the tokens of each row, -1 at its padding."""
  rows = [np.arange(n) for n in lengths]
  return batch(rows, dtype=np.int32, length=length, side=side, fill=-1)


def check_fits(size: int, limit: int, what: str) -> None:
  """Raises ValueError if `size` exceeds `limit`, naming `what` and by how much."""
  if size > limit:
    raise ValueError(f'{what} has {size}: expected at most {limit} ({size - limit} too many)')
