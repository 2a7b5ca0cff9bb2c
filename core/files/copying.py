"""Copies of transposed and cast tensors that the cache allows: files store [out, in], and we compute with [in, out].

Numpy casts bfloat16 value by value and walks a transposed array in long strides. So a copy takes STRIP rows of what is
stored at a time, whose lines stay in the first cache until all of their values are used, and moves bits where it can.
"""

import ml_dtypes
import numpy as np

STRIP = 16  # of 4 to 64, the fastest for two and four bytes a value
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def copy(view: np.ndarray, out: np.ndarray) -> None:
  """Copies `view` into `out`, of the same shape and any strides, cast to its dtype."""
  for part in _strips(view):
    _cast(view[part], out[part])


def _strips(view: np.ndarray) -> list[tuple]:
  """Indices that cut the last axis into strips where its neighbours are not neighbours in memory; else the whole."""
  if view.ndim < 2 or view.strides[-1] == view.itemsize:
    return [(...,)]
  starts = range(0, view.shape[-1], STRIP)
  return [(..., slice(start, start + STRIP)) for start in starts]


def _cast(view: np.ndarray, out: np.ndarray) -> None:
  if view.dtype == BFLOAT16 and out.dtype == np.float32:
    bits = view.view(np.uint16).astype(np.uint32)  # in the order of the view's memory
    bits <<= 16
    out.view(np.uint32)[...] = bits
  elif view.dtype == out.dtype == BFLOAT16:
    out.view(np.uint16)[...] = view.view(np.uint16)
  else:
    out[...] = view
