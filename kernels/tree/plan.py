"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   G sequences   N spans of pages   W items
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import struct

BLOCK = 16  # items a step of the XLA loop; the items of one class are padded to its multiple
FEW = 16  # readers of an item between "one" and "all"


@struct.dataclass
class Plan:
  """What `tree_attention` reads: W items, each a page and the rows that read it.

  Rows have an `order`, int32 [R], in which those that share a page are neighbours; `place`, int32 [R], is its inverse:
  row r is at place[r]. page: int32 [W]. start: int32 [W], position of the page's first token in the sequences that read
  it. first, readers: int32 [W]; the rows at places first to first + readers - 1 read the item, none if it is padding.
  ends: int32, for each class of `widths(R)` the item after its last; a class begins where the one before it ends, and
  has a multiple of BLOCK items. Items beyond the last class are undefined.
  lengths: int32 [R], tokens that each row reads. Pages do not change within a segment but lengths do: a decoding loop
  replaces them at every step.
  """

  page: np.ndarray
  start: np.ndarray
  first: np.ndarray
  readers: np.ndarray
  ends: np.ndarray
  order: np.ndarray
  place: np.ndarray
  lengths: np.ndarray


def plan(
  tables: Sequence[Sequence[int]], lengths: Sequence[int], *, page_size: int, capacity: int | None = None
) -> Plan:
  """The plan of rows whose pages `tables` lists in order; every page is one item, however many rows read it.

  Rows share a page only with all pages before it, as the paths of a tree do. capacity: the most items, for a fixed
  shape; by default the least power of two. Raises ValueError if a page follows different pages, or the items exceed the
  capacity.
  """
  counts = np.array([len(t) for t in tables], np.int64)
  longest = counts.max(initial=0)
  table = np.zeros((len(tables), longest), np.int32)
  listed = np.arange(longest) < counts[:, None]
  table[listed] = [page for t in tables for page in t]
  made = from_table(table, counts, np.ones_like(counts), lengths, page_size=page_size, capacity=capacity)
  _check_places(made.page[made.readers > 0])
  return made


def _check_places(page: np.ndarray) -> None:
  """Raises ValueError for a page that is listed twice."""
  index = np.arange(len(page), dtype=np.int32)
  last = np.zeros(page.max(initial=-1) + 1, np.int32)
  last[page] = index
  twice = last[page] != index
  if twice.any():
    raise ValueError(f'page {page[twice][0]} follows different pages; a page holds one place of a sequence')


def from_table(
  table: np.ndarray,
  counts: np.ndarray,
  runs: np.ndarray,
  lengths: Sequence[int],
  *,
  page_size: int,
  capacity: int | None,
) -> Plan:
  """As `plan`, for G block tables each read by a run of neighbouring rows.

  table: int32 [G, T], of which sequence g has the first `counts[g]`. runs: int [G] >= 1, rows that read each; they sum
  to R, the number of `lengths`. A page that follows different pages is not noticed: it is then read more than once.
  """
  spans = _spans(table, counts, runs)
  classes = np.array(widths(len(lengths)))
  level = np.searchsorted(classes, spans.readers)
  spans = spans.take(np.argsort(level, kind='stable'))
  level = np.sort(level)
  size = spans.stop - spans.start
  held = np.bincount(level, size, len(classes)).astype(np.int64)
  padded = -(-held // BLOCK) * BLOCK
  items = _blank(int(held.sum()), len(classes), capacity)
  # Item i of all is item i - (those of the classes before) of its class, which begins at a multiple of BLOCK.
  ends = padded.cumsum()
  shift = (ends - padded) - (held.cumsum() - held)
  span = np.arange(len(size)).repeat(size)
  item = np.arange(len(span))
  at = item + shift[level[span]]
  before = size.cumsum() - size - spans.start
  depth = item - before[span]
  sequence = spans.sequence[span]
  items['page'][at] = spans.table[sequence, depth]
  items['start'][at] = depth * page_size
  items['first'][at] = spans.first[span]
  items['readers'][at] = spans.readers[span]
  ends = ends.astype(np.int32)
  _repeat_last_page(items['page'], ends - padded + held, ends)
  place = np.argsort(spans.rows).astype(np.int32)
  return Plan(ends=ends, order=spans.rows, place=place, lengths=np.asarray(lengths, np.int32), **items)


def _blank(count: int, classes: int, capacity: int | None) -> dict[str, np.ndarray]:
  """`count` items without readers. Raises ValueError if they exceed the capacity."""
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  smallest = 1 << max(count - 1, 0).bit_length()
  most = (capacity or smallest) + classes * (BLOCK - 1)
  size = -(-most // BLOCK) * BLOCK
  return {name: np.zeros(size, np.int32) for name in ('page', 'start', 'first', 'readers')}


def _repeat_last_page(page: np.ndarray, used: np.ndarray, ends: np.ndarray) -> None:
  """Padding of a class names the page before it: a kernel then fetches nothing for it."""
  for last, end in zip(used.tolist(), ends.tolist()):
    page[last:end] = page[last - 1]


def widths(rows: int) -> tuple[int, ...]:
  """The classes of items, by the most readers that an item of each has: one, a few, all `rows`."""
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

  def take(self, index: np.ndarray) -> '_Spans':
    """The spans at `index`."""
    kept = (x[index] for x in (self.sequence, self.start, self.stop, self.first, self.readers))
    return _Spans(self.table, self.rows, *kept)


def _spans(table: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> _Spans:
  """The spans of block tables that share pages as the paths of a tree do: a page only with all pages before it.

  Sorted by their bytes, tables with a common beginning are neighbours, so comparing neighbours finds all that is
  shared. The cost is a few passes over contiguous memory and a few Python operations a sequence.
  """
  names = _page_names(table, counts)
  content = [row[:count].tobytes() for row, count in zip(names, counts.tolist())]
  sequences = range(len(content))
  order = np.array(sorted(sequences, key=content.__getitem__), np.int64)
  table = table[order]
  counts = counts[order]
  run = runs[order]
  shared = _shared_with_previous(table, counts)
  found = _tree(shared.tolist(), counts.tolist())
  sequence, last, start, stop = np.array(found, np.int64).reshape(-1, 4).T
  row_after = run.cumsum()
  row_before = row_after - run
  first_row = (runs.cumsum() - runs)[order]
  shift = first_row - row_before
  rows = np.arange(row_after[-1]) + shift.repeat(run)
  rows = rows.astype(np.int32)
  first = row_before[sequence]
  after = row_after[last]
  order = _order(rows, first, after, start)
  spans = (x[order] for x in (sequence, start, stop, first, after - first))
  return _Spans(table, rows, *spans)


def _page_names(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """For each listed page the first sequence that lists it, int32 [G, T].

  Two tables have equal names as far as they have equal pages, so the order of rows depends on who shares what, and not
  on the numbers of the pages.
  """
  listed = np.arange(table.shape[1]) < counts[:, None]
  pages = table[listed]
  sequence = np.arange(len(table), dtype=np.int32).repeat(counts)
  owner = np.zeros(pages.max(initial=-1) + 1, np.int32)
  owner[pages[::-1]] = sequence[::-1]  # of several assignments the last counts: that of the first sequence
  names = np.zeros_like(table)
  names[listed] = owner[pages]
  return names


def _order(rows: np.ndarray, first: np.ndarray, after: np.ndarray, start: np.ndarray) -> np.ndarray:
  """The order of spans by their lowest row, then by depth.

  It depends on who reads what, and not on the numbers of the pages: sums over pages then round equally for any page
  numbers, so equal requests get equal bits in a cache that was used before.
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
  shorter = np.minimum(counts[1:], counts[:-1])
  shared[1:] = np.minimum(first_difference, shorter)
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
