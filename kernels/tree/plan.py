"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   W items   C rows of an item
"""

from collections.abc import Sequence

import numpy as np
from flax import struct

BLOCK = 16  # items a step of the XLA loop; lists are padded to its multiples
FEW = 16  # rows of an item between "one" and "all"


@struct.dataclass
class Items:
  """Work of one width C: each item is a page, read by up to C rows.

  page: int32 [W]. start: int32 [W], the page's first token's place in its rows' sequences. rows: int32 [W, C], R where
  there is none; the widest list (C = R) has row r in column r. count: int32 [], the items there are; the rest is
  padding.
  """

  page: np.ndarray
  start: np.ndarray
  rows: np.ndarray
  count: np.ndarray


@struct.dataclass
class Plan:
  """What `tree_attention` reads. `items`: lists of growing width, the last of all R rows.

  lengths: int32 [R], tokens that each row reads. Pages do not change within a segment but lengths do: a decoding loop
  replaces them at every step.
  """

  items: tuple[Items, ...]
  lengths: np.ndarray


def plan(
  tables: Sequence[Sequence[int]], lengths: Sequence[int], *, page_size: int, capacity: int | None = None
) -> Plan:
  """The plan of rows whose pages `tables` lists in order; every page is one item, however many rows read it.

  capacity: items in each list, for a fixed shape; by default the least power of two. Raises ValueError when a page is
  listed at two depths, or the items exceed the capacity.
  """
  rows = len(tables)
  row = np.repeat(np.arange(rows), [len(t) for t in tables])
  depth = np.concatenate([np.arange(len(t)) for t in tables]) if rows else np.zeros(0, np.int64)
  page = np.array([p for t in tables for p in t], np.int64)
  pages, first, index = np.unique(page, return_index=True, return_inverse=True)
  if (depth != depth[first][index]).any():
    wrong = page[depth != depth[first][index]][0]
    raise ValueError(f'page {wrong} is listed at two depths; a page holds one place of a sequence')
  readers = np.zeros((len(pages), rows), bool)
  readers[index, row] = True
  order = np.lexsort((depth[first], row[first]))  # a sequence's pages beside each other
  pages, start, readers = pages[order], depth[first][order] * page_size, readers[order]
  widths, items, below = readers.sum(1), [], 0
  for width in (*(w for w in (1, FEW) if w < rows), rows):
    mine = (widths > below) & (widths <= width)
    items.append(_items(pages[mine], start[mine], readers[mine], width, capacity))
    below = width
  return Plan(tuple(items), np.asarray(lengths, np.int32))


def _items(pages, start, readers, width: int, capacity: int | None) -> Items:
  count, rows = readers.shape
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  room = -(-(capacity or 1 << max(count - 1, 0).bit_length()) // BLOCK) * BLOCK
  grow = lambda x: np.pad(x, (0, room - count)).astype(np.int32)
  table = np.full((room, width), rows, np.int32)
  item, row = np.nonzero(readers)
  column = row if width == rows else readers.cumsum(1)[item, row] - 1
  table[item, column] = row
  return Items(grow(pages), grow(start), table, np.int32(count))
