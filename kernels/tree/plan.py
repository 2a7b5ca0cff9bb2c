"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   G sequences   E listings, the pages of each sequence in turn   W items   C rows of an item
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

  page: int32 [W]. start: int32 [W], position of the page's first token in the sequences that read it. rows: int32
  [W, C], R where an item has fewer readers; the widest list (C = R) has row r in column r. count: int32 [], the number
  of items. Entries beyond it are padding: `rows` is R up to the end of the last item's block, and undefined after that.
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
  listed = np.arange(table.shape[1]) < counts[:, None]
  table[listed] = [page for t in tables for page in t]
  limits = (capacity,) * len(_widths(len(tables)))
  return from_table(table, counts, np.ones_like(counts), lengths, page_size=page_size, capacity=limits)


def capacities(rows: int, longest: int, pages: int) -> tuple[int, ...]:
  """The most items that each list can have if `rows` rows list at most `longest` of `pages` pages each."""
  narrower = _widths(rows)[:-1]
  fewest_readers = [1, *(width + 1 for width in narrower)]
  listings = rows * longest
  return tuple(min(pages, listings // readers) for readers in fewest_readers)


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
  to R, the number of `lengths`. capacity: of each list. The cost is that of a few array operations on E elements.
  """
  rows = len(lengths)
  listings = _listings(table, counts, runs)
  readers = np.bincount(listings.page, weights=listings.run).astype(np.int32)
  width = readers[listings.page]
  _check_depths(listings.where(width > listings.run))
  lists = []
  narrower = 0
  for most, limit in zip(_widths(rows), capacity, strict=True):
    of_this_width = (width > narrower) & (width <= most)
    lists.append(_list(listings.where(of_this_width), most, rows, page_size, limit))
    narrower = most
  return Plan(tuple(lists), np.asarray(lengths, np.int32))


def _widths(rows: int) -> tuple[int, ...]:
  narrower = [width for width in (1, FEW) if width < rows]
  return *narrower, rows


@dataclasses.dataclass(frozen=True)
class _Listings:
  """Pages as sequences list them, int32 [E] each: page, its depth, and the `run` rows from `row` on that read it."""

  page: np.ndarray
  depth: np.ndarray
  row: np.ndarray
  run: np.ndarray

  def where(self, mask: np.ndarray) -> '_Listings':
    if mask.all():  # the usual case of long prompts with nothing in common, which are the longest lists
      return self
    kept = np.flatnonzero(mask)
    return _Listings(self.page[kept], self.depth[kept], self.row[kept], self.run[kept])

  def sequences(self) -> list[slice]:
    """The listings of each sequence."""
    starts = np.flatnonzero(np.diff(self.row, prepend=-1)).tolist()
    stops = [*starts[1:], len(self.row)]
    return [slice(start, stop) for start, stop in zip(starts, stops)]


def _listings(table: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> _Listings:
  depth = np.arange(table.shape[1], dtype=np.int32)
  listed = depth < counts[:, None]
  first_row = np.cumsum(runs, dtype=np.int32) - runs.astype(np.int32)
  return _Listings(
    page=table[listed],
    depth=np.broadcast_to(depth, table.shape)[listed],
    row=np.repeat(first_row, counts),
    run=np.repeat(runs.astype(np.int32), counts),
  )


def _check_depths(listings: _Listings) -> None:
  depth_of = np.zeros(listings.page.max(initial=-1) + 1, np.int32)
  depth_of[listings.page] = listings.depth
  wrong = depth_of[listings.page] != listings.depth
  if wrong.any():
    page = listings.page[wrong][0]
    raise ValueError(f'page {page} is listed at two depths; a page holds one place of a sequence')


def _list(listings: _Listings, width: int, rows: int, page_size: int, capacity: int | None) -> Items:
  """The items of all these listings, each with up to `width` readers."""
  if width == 1 and rows > 1:
    table = _blank(len(listings.page), width, rows, capacity)
    table[: len(listings.row), 0] = listings.row
    return _items(listings.page, listings.depth, table, page_size)
  first, item = _distinct(listings.page)
  table = _blank(len(first), width, rows, capacity)
  if width == rows:
    _fill_by_row(table, item, listings)
  else:
    _fill_in_order(table, item, listings)
  return _items(listings.page[first], listings.depth[first], table, page_size)


def _distinct(page: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(index of the first listing of each page, in order; for each listing, which of these pages it is)."""
  index = np.arange(len(page), dtype=np.int32)
  first_of = np.zeros(page.max(initial=-1) + 1, np.int32)
  first_of[page[::-1]] = index[::-1]  # of equal indices the last assignment holds
  first = np.flatnonzero(first_of[page] == index)
  item_of = first_of  # the same memory, used anew
  item_of[page[first]] = np.arange(len(first))
  return first, item_of[page]


def _blank(count: int, width: int, rows: int, capacity: int | None) -> np.ndarray:
  """Readers of `count` items, none of them set. Raises ValueError if they exceed the capacity."""
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  smallest = 1 << max(count - 1, 0).bit_length()
  size = -(-(capacity or smallest) // BLOCK) * BLOCK
  table = np.empty((size, width), np.int32)  # megabytes, of which a block loop reads only those filled here
  table[: -(-count // BLOCK) * BLOCK] = rows
  return table


def _items(page: np.ndarray, depth: np.ndarray, table: np.ndarray, page_size: int) -> Items:
  count, size = len(page), len(table)
  padded_page = np.zeros(size, np.int32)
  padded_page[:count] = page
  start = np.zeros(size, np.int32)
  np.multiply(depth, page_size, out=start[:count])
  return Items(padded_page, start, table, np.int32(count))


def _fill_by_row(table: np.ndarray, item: np.ndarray, listings: _Listings) -> None:
  """Row r in column r."""
  if (listings.run == 1).all():
    table[item, listings.row] = listings.row
    return
  for listed in listings.sequences():
    first, run = listings.row[listed.start], listings.run[listed.start]
    columns = np.arange(first, first + run)
    table[item[listed], first : first + run] = columns


def _fill_in_order(table: np.ndarray, item: np.ndarray, listings: _Listings) -> None:
  """The readers of an item in its first columns."""
  run = listings.run
  place_in_run = np.arange(run.sum()) - np.repeat(np.cumsum(run) - run, run)
  column = np.repeat(_readers_before(listings), run) + place_in_run
  table[np.repeat(item, run), column] = np.repeat(listings.row, run) + place_in_run


def _readers_before(listings: _Listings) -> np.ndarray:
  """For each listing, the rows of earlier sequences that read its page."""
  readers = np.zeros(listings.page.max(initial=-1) + 1, np.int32)
  before = np.empty_like(listings.page)
  for listed in listings.sequences():
    page = listings.page[listed]  # distinct, so each is counted once
    before[listed] = readers[page]
    readers[page] += listings.run[listed]
  return before
