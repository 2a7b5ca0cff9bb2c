"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   W items   P pages in an item   C rows of an item
"""

from collections.abc import Sequence

import numpy as np
from flax import struct

SPAN = 4  # pages in an item: one product covers them all
BLOCK = 16  # items a step of the XLA loop; lists are padded to its multiples
FEW = 8  # rows of an item between "one" and "all"


@struct.dataclass
class Items:
  """Work of one width C: item w is up to P consecutive pages, read by up to C rows.

  pages: int32 [W, P], -1 where there is none. start: int32 [W], the first page's place in its rows' sequences, in
  tokens. rows: int32 [W, C], R where there is none; the widest list (C = R) has row r in column r. count: int32 [],
  the items there are; the rest is padding.
  """

  pages: np.ndarray
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


def plan(tables: Sequence[Sequence[int]], lengths: Sequence[int], *, page_size: int, capacity: int | None = None,
         span: int = SPAN) -> Plan:
  """The plan of rows whose pages `tables` lists in order; every page appears in exactly one item.

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
  _, leaves = np.unique(readers, axis=0, return_inverse=True)  # pages with the same readers
  order = np.lexsort((depth[first], leaves.reshape(-1)))
  runs = _runs(leaves.reshape(-1)[order], depth[first][order], span)
  starts = np.flatnonzero(runs == 0)
  widths = readers[order[starts]].sum(1)
  out, below = [], 0
  for width in (*(w for w in (1, FEW) if w < rows), rows):
    chosen = (widths > below) & (widths <= width)
    out.append(_items(pages[order], depth[first][order], readers[order], starts, runs, np.flatnonzero(chosen), width,
                      page_size, capacity, span))
    below = width
  return Plan(tuple(out), np.asarray(lengths, np.int32))


def _runs(leaves: np.ndarray, depth: np.ndarray, span: int) -> np.ndarray:
  """For pages sorted by (leaves, depth): each one's place in its item, 0..span-1."""
  fresh = np.ones(len(leaves), bool)
  fresh[1:] = (leaves[1:] != leaves[:-1]) | (depth[1:] != depth[:-1] + 1)
  at = np.arange(len(leaves))
  return (at - np.maximum.accumulate(np.where(fresh, at, 0))) % span


def _items(pages, depth, readers, starts, runs, chosen, width, page_size, capacity, span) -> Items:
  rows = readers.shape[1]
  room = _padded(len(chosen), capacity)
  out = Items(np.full((room, span), -1, np.int32), np.zeros(room, np.int32), np.full((room, width), rows, np.int32),
              np.int32(len(chosen)))
  ends = np.append(starts, len(runs))
  for w, item in enumerate(chosen):
    begin, end = ends[item], ends[item + 1]
    out.pages[w, :end - begin] = pages[begin:end]
    out.start[w] = depth[begin] * page_size
    under = np.flatnonzero(readers[begin])
    out.rows[w, under if width == rows else slice(len(under))] = under
  return out


def _padded(items: int, capacity: int | None) -> int:
  room = -(-max(items, capacity or 1 << max(items - 1, 0).bit_length()) // BLOCK) * BLOCK
  if capacity is not None and items > capacity:
    raise ValueError(f'{items} items exceed the capacity of {capacity}')
  return room
