"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   W items   C rows of an item
"""

import dataclasses
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

  capacity: items in each list, for a fixed shape; by default the least power of two. Raises ValueError if a page is
  listed at two depths, or the items exceed the capacity.
  """
  counts = np.array([len(t) for t in tables], np.int64)
  table = np.zeros((len(tables), counts.max(initial=0)), np.int32)
  table[np.arange(table.shape[1]) < counts[:, None]] = [page for t in tables for page in t]
  limits = (capacity,) * len(_widths(len(tables)))
  return from_table(table, counts, np.ones_like(counts), lengths, page_size=page_size, capacity=limits)


def capacities(rows: int, longest: int, pages: int) -> tuple[int, ...]:
  """The most items that each list can have if `rows` rows list at most `longest` of `pages` pages each."""
  widths = _widths(rows)
  fewest = [1, *(width + 1 for width in widths[:-1])]
  return tuple(min(pages, rows * longest // n) for n in fewest)


def from_table(
  table: np.ndarray,
  counts: np.ndarray,
  runs: np.ndarray,
  lengths: Sequence[int],
  *,
  page_size: int,
  capacity: Sequence[int | None],
) -> Plan:
  """As `plan`, for G block tables each read by a run of neighbouring rows.

  table: int32 [G, T], of which sequence g has the first `counts[g]`. runs: int [G] >= 1, rows that read each; they sum
  to R, the number of `lengths`. capacity: of each list. The cost is a few array operations, and two a sequence.
  """
  rows = len(lengths)
  listings = _listings(table, counts, runs)
  before, readers = _count_readers(listings.page, counts, runs)
  _check_depths(listings, len(readers))
  width = readers[listings.page]
  alone = width == 1
  single, shared = listings.where(alone), listings.where(~alone)
  before, width = before[~alone], width[~alone]
  lists = [_single(single, rows, page_size, capacity[0])] if rows > 1 else []
  below = len(lists)
  if rows == 1:
    shared, before, width = listings, np.zeros_like(listings.page), readers[listings.page]
  for most, limit in zip(_widths(rows)[below:], capacity[below:], strict=True):
    mine = (width > below) & (width <= most)
    lists.append(_shared(shared.where(mine), before[mine], most, rows, page_size, limit))
    below = most
  return Plan(tuple(lists), np.asarray(lengths, np.int32))


def _widths(rows: int) -> tuple[int, ...]:
  return *(w for w in (1, FEW) if w < rows), rows


@dataclasses.dataclass(frozen=True)
class _Listings:
  """Pages as sequences list them, int32 [E] each: page, its depth, and the `run` rows from `row` on that read it."""

  page: np.ndarray
  depth: np.ndarray
  row: np.ndarray
  run: np.ndarray

  def where(self, mask: np.ndarray) -> '_Listings':
    return _Listings(self.page[mask], self.depth[mask], self.row[mask], self.run[mask])


def _listings(table: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> _Listings:
  first = np.cumsum(counts) - counts
  repeat = lambda x: np.repeat(x.astype(np.int32), counts)
  depth = np.arange(counts.sum(), dtype=np.int32) - repeat(first)
  page = table[np.arange(table.shape[1]) < counts[:, None]]
  return _Listings(page, depth, row=repeat(np.cumsum(runs) - runs), run=repeat(runs))


def _count_readers(page: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(rows of earlier sequences that read each listed page, rows that read each page)."""
  readers = np.zeros(page.max(initial=-1) + 1, np.int32)
  before = np.empty_like(page)
  stop = 0
  for count, run in zip(counts.tolist(), runs.tolist()):
    start, stop = stop, stop + count
    mine = page[start:stop]  # distinct, so each is counted once
    earlier = readers[mine]
    before[start:stop] = earlier
    readers[mine] = earlier + run
  return before, readers


def _check_depths(listings: _Listings, pages: int) -> None:
  depth_of = np.zeros(pages, np.int32)
  depth_of[listings.page] = listings.depth
  wrong = depth_of[listings.page] != listings.depth
  if wrong.any():
    page = listings.page[wrong][0]
    raise ValueError(f'page {page} is listed at two depths; a page holds one place of a sequence')


def _single(listings: _Listings, rows: int, page_size: int, capacity: int | None) -> Items:
  """The list of pages that one row reads."""
  size = _size(len(listings.page), capacity)
  table = np.full((size, 1), rows, np.int32)
  table[: len(listings.row), 0] = listings.row
  return _items(listings.page, listings.depth, table, page_size)


def _shared(
  listings: _Listings, before: np.ndarray, width: int, rows: int, page_size: int, capacity: int | None
) -> Items:
  """A list of pages that up to `width` rows read; the first listing of a page makes its item."""
  new = before == 0
  page, depth = listings.page[new], listings.depth[new]
  table = np.full((_size(len(page), capacity), width), rows, np.int32)
  item_of = np.zeros(page.max(initial=-1) + 1, np.int32)
  item_of[page] = np.arange(len(page))
  item = item_of[listings.page]
  if width == rows:
    _fill_by_row(table, item, listings)
  else:
    _fill_in_order(table, item, listings, before)
  return _items(page, depth, table, page_size)


def _size(count: int, capacity: int | None) -> int:
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  smallest = 1 << max(count - 1, 0).bit_length()
  return -(-(capacity or smallest) // BLOCK) * BLOCK


def _items(page: np.ndarray, depth: np.ndarray, table: np.ndarray, page_size: int) -> Items:
  padded = np.zeros((2, len(table)), np.int32)
  padded[0, : len(page)] = page
  padded[1, : len(page)] = depth * page_size
  return Items(*padded, table, np.int32(len(page)))


def _fill_by_row(table: np.ndarray, item: np.ndarray, listings: _Listings) -> None:
  """Row r in column r."""
  if (listings.run == 1).all():
    table[item, listings.row] = listings.row
    return
  starts = np.flatnonzero(np.diff(listings.row, prepend=-1))
  for start, stop in zip(starts, [*starts[1:], len(item)]):
    first = listings.row[start]
    columns = slice(first, first + listings.run[start])
    table[item[start:stop], columns] = np.arange(columns.start, columns.stop)


def _fill_in_order(table: np.ndarray, item: np.ndarray, listings: _Listings, before: np.ndarray) -> None:
  """The readers of an item in its first columns."""
  for i in range(listings.run.max(initial=0)):
    longer = listings.run > i
    table[item[longer], before[longer] + i] = listings.row[longer] + i
