"""Memory of weights, and copies of tensors into it: files store [out, in], and we compute with [in, out].

Numpy casts bfloat16 value by value and walks a transposed array in strides of a power of two, whose lines evict one
another. So a copy goes piece by piece through a buffer whose rows are spaced, which the core's cache holds while it is
transposed into its place, and moves bits where it can. Pieces go to the cores that this process may use.
"""

import collections
import concurrent.futures
import math
import mmap
import os
from collections.abc import Iterator

import ml_dtypes
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # what is stored, and its place

PIECE = 1 << 17  # values of a piece, 512 KB in float32
TASK = 1 << 21  # values that a thread copies at a time
SPACE = 64  # bytes between rows of the buffer, a line
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_POPULATE', 0)  # pages of this process alone
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = np.dtype([('low', '<u2'), ('high', '<u2')])  # of a float32, whose high half is the bfloat16


def memory(shape: tuple[int, ...], dtype) -> np.ndarray:
  """An empty array of whole pages, which a CPU device takes over as it is instead of copying.

  The pages are made at once, for a third less than one by one. They are small ones: a virtual machine may have given
  its free memory back, and then numpy's huge pages cost five times as much (6 s instead of 1.3 for 3 GB).
  """
  size = math.prod(shape) * np.dtype(dtype).itemsize
  pages = mmap.mmap(-1, max(size, 1), flags=PRIVATE)
  return np.frombuffer(pages, np.uint8, size).view(dtype).reshape(shape)


def copy(view: np.ndarray, out: np.ndarray) -> None:
  """Copies `view` into `out`, of the same shape and any strides, cast to its dtype."""
  tasks = list(_halves(view, out, most=TASK))
  if len(tasks) == 1:
    _copy_pieces(view, out)
    return
  with concurrent.futures.ThreadPoolExecutor(_cores()) as pool:
    copied = pool.map(_copy_pieces, *zip(*tasks))
    collections.deque(copied, maxlen=0)  # raises what a thread raised


def _cores() -> int:
  """The processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _halves(view: np.ndarray, out: np.ndarray, *, most: int) -> Iterator[Pair]:
  """The same parts of both arrays, of at most `most` values each: the longest axis is cut until they are."""
  if view.size <= most:
    yield view, out
    return
  axis = int(np.argmax(view.shape))
  middle = view.shape[axis] // 2
  before = (slice(None),) * axis
  for half in (slice(None, middle), slice(middle, None)):
    at = (*before, half)
    yield from _halves(view[at], out[at], most=most)


def _copy_pieces(view: np.ndarray, out: np.ndarray) -> None:
  for part, place in _halves(view, out, most=PIECE):
    if view.ndim < 2 or view.strides[-1] == view.itemsize:
      _cast(part, place)
    else:
      _transpose(part, place)


def _transpose(view: np.ndarray, out: np.ndarray) -> None:
  """Copies through a buffer in the order of the view's memory, where neighbours along the last axis are spaced."""
  order = np.argsort(view.strides)[::-1]
  stored = view.transpose(order)
  place = out.transpose(order)
  row = list(order).index(view.ndim - 1)
  if _widens(view, out):
    buffer = _spaced(stored.shape, row, BFLOAT16)
    _cast(stored, buffer)
    _bits(place)[...] = 0
    place.view(HALVES)['high'] = _bits(buffer)  # half the bytes to transpose
  else:
    buffer = _spaced(stored.shape, row, out.dtype)
    _cast(stored, buffer)
    _cast(buffer, place)


def _spaced(shape: tuple[int, ...], axis: int, dtype: np.dtype) -> np.ndarray:
  """An empty array in row-major order, but with SPACE bytes between neighbours along `axis`."""
  rows = shape[: axis + 1]
  values = math.prod(shape[axis + 1 :])
  space = SPACE // dtype.itemsize
  return np.empty((*rows, values + space), dtype)[..., :values].reshape(shape)


def _cast(view: np.ndarray, out: np.ndarray) -> None:
  if view.dtype == out.dtype:
    _bits(out)[...] = _bits(view)
  elif _widens(view, out):
    bits = _bits(out)
    bits[...] = _bits(view)
    bits <<= 16
  else:
    out[...] = view


def _widens(view: np.ndarray, out: np.ndarray) -> bool:
  return view.dtype == BFLOAT16 and out.dtype == np.float32


def _bits(array: np.ndarray) -> np.ndarray:
  """The same memory as unsigned numbers, which numpy copies faster than bfloat16."""
  return array.view(f'u{array.itemsize}')
