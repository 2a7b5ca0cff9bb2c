"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   G sequences   N spans of pages   W items   C rows of an item
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

  Rows share a page only with all pages before it, as the paths of a tree do. capacity: items in each list, for a fixed
  shape; by default the least power of two. Raises ValueError if a page follows different pages, or the items exceed the
  capacity.
  """
  counts = np.array([len(t) for t in tables], np.int64)
  table = np.zeros((len(tables), counts.max(initial=0)), np.int32)
  listed = np.arange(table.shape[1]) < counts[:, None]
  table[listed] = [page for t in tables for page in t]
  limits = (capacity,) * len(_widths(len(tables)))
  made = from_table(table, counts, np.ones_like(counts), lengths, page_size=page_size, capacity=limits)
  _check_places(np.concatenate([items.page[: items.count] for items in made.items]))
  return made


def _check_places(page: np.ndarray) -> None:
  """Raises ValueError for a page that is listed twice."""
  index = np.arange(len(page), dtype=np.int32)
  last = np.zeros(page.max(initial=-1) + 1, np.int32)
  last[page] = index
  twice = last[page] != index
  if twice.any():
    raise ValueError(f'page {page[twice][0]} follows different pages; a page holds one place of a sequence')


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
  to R, the number of `lengths`. capacity: of each list. A page that follows different pages is not noticed: it is then
  read more than once.
  """
  rows = len(lengths)
  spans = _spans(table, counts, runs)
  lists = []
  narrower = 0
  for most, limit in zip(_widths(rows), capacity, strict=True):
    of_this_width = (spans.readers > narrower) & (spans.readers <= most)
    lists.append(_list(spans.where(of_this_width), most, rows, page_size, limit))
    narrower = most
  return Plan(tuple(lists), np.asarray(lengths, np.int32))


def _widths(rows: int) -> tuple[int, ...]:
  narrower = [width for width in (1, FEW) if width < rows]
  return *narrower, rows


@dataclasses.dataclass(frozen=True)
class _Spans:
  """Neighbouring pages with the same readers, int [N] each.

  table: int32 [G, T] and rows: int32 [R], the rows that read each sequence, both in an order that puts sequences with a
  common beginning next to each other. Span n is pages `start..stop-1` of `sequence`; `readers` rows from the one at
  `first` in `rows` on read it.
  """

  table: np.ndarray
  rows: np.ndarray
  sequence: np.ndarray
  start: np.ndarray
  stop: np.ndarray
  first: np.ndarray
  readers: np.ndarray

  def where(self, mask: np.ndarray) -> '_Spans':
    kept = (x[mask] for x in (self.sequence, self.start, self.stop, self.first, self.readers))
    return _Spans(self.table, self.rows, *kept)

  def pages(self) -> list[np.ndarray]:
    """The pages of each span."""
    bounds = zip(self.sequence.tolist(), self.start.tolist(), self.stop.tolist())
    return [self.table[sequence, start:stop] for sequence, start, stop in bounds]


def _spans(table: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> _Spans:
  """The spans of block tables that share pages as the paths of a tree do: a page only with all pages before it.

  Sorted by their bytes, tables with a common beginning are neighbours, so comparing neighbours finds all that is
  shared. The cost is a few passes over contiguous memory and a few Python operations a sequence.
  """
  content = [row[:count].tobytes() for row, count in zip(table, counts.tolist())]
  order = np.array(sorted(range(len(content)), key=content.__getitem__), np.int64)
  table, counts, run = table[order], counts[order], runs[order]
  shared = _shared_with_previous(table, counts)
  found = _tree(shared.tolist(), counts.tolist())
  sequence, last, start, stop = np.array(found, np.int64).reshape(-1, 4).T
  row_after = run.cumsum()
  row_before = row_after - run
  first_row = (runs.cumsum() - runs)[order]
  rows = np.arange(row_after[-1]) + (first_row - row_before).repeat(run)
  rows = rows.astype(np.int32)
  first, after = row_before[sequence], row_after[last]
  order = _order(rows, first, after, start)
  spans = (x[order] for x in (sequence, start, stop, first, after - first))
  return _Spans(table, rows, *spans)


def _order(rows: np.ndarray, first: np.ndarray, after: np.ndarray, start: np.ndarray) -> np.ndarray:
  """The order of spans by their lowest row, then by depth.

  It depends on who reads what, and not on the numbers of the pages: sums over pages then round alike wherever the pages
  are, so equal requests get equal bits in a cache that was used before.
  """
  bounds = np.stack([first, after], 1).reshape(-1)
  padded = np.append(rows, np.int32(len(rows)))  # `bounds` may end after the last row
  lowest = np.minimum.reduceat(padded, bounds)[::2]
  return np.lexsort((start, lowest))


def _shared_with_previous(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """For each table, how many pages it begins with that the one before it begins with too; 0 for the first."""
  shared = np.zeros(len(table), np.int64)
  if len(table) == 1 or not table.size:
    return shared
  differ = table[1:] != table[:-1]
  first_difference = np.where(differ.any(1), differ.argmax(1), table.shape[1])
  shared[1:] = np.minimum(first_difference, np.minimum(counts[1:], counts[:-1]))
  return shared


def _tree(shared: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int, int, int]]:
  """Spans (first sequence, last sequence, first page, page after the last) of sorted tables.

  `path` holds the spans of the present table that are still open. A table that shares less closes the deeper ones, and
  cuts the one in which it branches off.
  """
  spans = []
  path: list[tuple[int, int, int]] = []  # (first sequence, first page, page after the last)
  for sequence, (common, count) in enumerate(zip([*shared, 0], [*counts, 0])):
    while path and path[-1][2] > common:
      first, start, stop = path.pop()
      spans.append((first, sequence - 1, max(start, common), stop))
      if start < common:
        path.append((first, start, common))
    if count > common:
      path.append((sequence, common, count))
  return spans


def _list(spans: _Spans, width: int, rows: int, page_size: int, capacity: int | None) -> Items:
  """The items of all these spans, each with up to `width` readers."""
  size = spans.stop - spans.start
  end = size.cumsum()
  count = int(size.sum())
  table = _blank(count, width, rows, capacity)
  page, start = np.zeros((2, len(table)), np.int32)
  items = Items(page, start, table, np.int32(count))
  if not count:
    return items
  if width == rows:
    _fill_by_row(table, spans, end)
  else:
    table[:count] = _readers(spans, width, rows).repeat(size, axis=0)
  np.concatenate(spans.pages(), out=page[:count])
  before = (end - size - spans.start).astype(np.int32)
  depth = np.arange(count, dtype=np.int32) - before.repeat(size)
  np.multiply(depth, page_size, out=start[:count])
  return items


def _blank(count: int, width: int, rows: int, capacity: int | None) -> np.ndarray:
  """Readers of `count` items, none of them set. Raises ValueError if they exceed the capacity."""
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  smallest = 1 << max(count - 1, 0).bit_length()
  size = -(-(capacity or smallest) // BLOCK) * BLOCK
  table = np.empty((size, width), np.int32)  # megabytes, of which a block loop reads only those filled here
  table[count : -(-count // BLOCK) * BLOCK] = rows
  return table


def _readers(spans: _Spans, width: int, rows: int) -> np.ndarray:
  """The readers of each span in its first columns, lowest first, `rows` in the others: [N, width]."""
  column = np.arange(width)
  known = column < spans.readers[:, None]
  at = np.where(known, spans.first[:, None] + column, 0)
  return np.sort(np.where(known, spans.rows[at], np.int32(rows)), axis=1)


def _fill_by_row(table: np.ndarray, spans: _Spans, end: np.ndarray) -> None:
  """Row r in column r of the items of each span."""
  begin = 0
  for first, readers, stop in zip(spans.first.tolist(), spans.readers.tolist(), end.tolist()):
    reading = spans.rows[first : first + readers]
    line = np.full(table.shape[1], table.shape[1], np.int32)
    line[reading] = reading
    table[begin:stop] = line
    begin = stop
