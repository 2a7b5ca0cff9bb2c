"""Which pages are read for which rows: pure NumPy on the host, once a segment.

R rows   G sequences   N spans of pages   W items
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from flax import struct

BLOCK = 16  # items a step of the XLA loop; the items of one class are padded to its multiple
FEW = 16  # most readers of an item in the class between "one" and "all"


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
  depth = np.arange(counts.max(initial=0))
  listed = depth < counts[:, None]
  table = np.zeros(listed.shape, np.int32)
  table[listed] = [page for t in tables for page in t]
  one_row = np.ones_like(counts)
  made = from_table(table, counts, one_row, lengths, page_size=page_size, capacity=capacity)
  is_read = made.readers > 0
  _check_unique(made.page[is_read])
  return made


def _check_unique(page: np.ndarray) -> None:
  """Raises ValueError for a page that is listed twice."""
  index = np.arange(len(page), dtype=np.int32)
  size = page.max(initial=-1) + 1
  last = np.zeros(size, np.int32)
  last[page] = index
  twice = last[page] != index
  if twice.any():
    first, *_ = page[twice]
    raise ValueError(f'page {first} follows different pages; expected each page at one place of the sequences')


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
  held = np.bincount(level, size, len(classes))  # items of each class
  held = held.astype(np.int64)
  padded = -(-held // BLOCK) * BLOCK
  # Item i of all is item i - (those of the classes before) of its class, which begins at a multiple of BLOCK.
  end = padded.cumsum()
  begin = end - padded
  items_before = held.cumsum() - held
  shift = begin - items_before
  span = np.arange(len(size)).repeat(size)
  item = np.arange(len(span))
  slot = item + shift[level[span]]
  items = _blank(len(item), len(classes), capacity)
  _fill(items, slot, spans, span, page_size)
  _repeat_last_page(items['page'], begin + held, end)
  return Plan(
    **items,
    ends=end.astype(np.int32),
    order=spans.rows,
    place=np.argsort(spans.rows).astype(np.int32),
    lengths=np.asarray(lengths, np.int32),
  )


def _fill(items: dict[str, np.ndarray], slot: np.ndarray, spans: '_Spans', span: np.ndarray, page_size: int) -> None:
  """Writes the pages of all spans, in order, to `slot` of the items; span: the span that each belongs to."""
  size = spans.stop - spans.start
  items_before = size.cumsum() - size
  within = np.arange(len(span)) - items_before[span]
  depth = spans.start[span] + within
  sequence = spans.sequence[span]
  items['page'][slot] = spans.table[sequence, depth]
  items['start'][slot] = depth * page_size
  items['first'][slot] = spans.first[span]
  items['readers'][slot] = spans.readers[span]


def _blank(count: int, classes: int, capacity: int | None) -> dict[str, np.ndarray]:
  """Room for `count` items, all without readers. Raises ValueError if they exceed the capacity."""
  if capacity is not None and count > capacity:
    raise ValueError(f'{count} items exceed the capacity of {capacity}')
  power = max(count - 1, 0).bit_length()
  used = capacity or 1 << power
  padding = classes * (BLOCK - 1)
  blocks = -(-(used + padding) // BLOCK)
  names = ('page', 'start', 'first', 'readers')
  return {name: np.zeros(blocks * BLOCK, np.int32) for name in names}


def _repeat_last_page(page: np.ndarray, used: np.ndarray, ends: np.ndarray) -> None:
  """Padding of a class names the page before it, so a kernel fetches nothing for it."""
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
  common beginning next to each other. Span n is pages `start..stop-1` of `sequence`; rows[first] and the rows after it,
  `readers` in all, read it.
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
    return dataclasses.replace(
      self,
      sequence=self.sequence[index],
      start=self.start[index],
      stop=self.stop[index],
      first=self.first[index],
      readers=self.readers[index],
    )


def _spans(table: np.ndarray, counts: np.ndarray, runs: np.ndarray) -> _Spans:
  """The spans of block tables that share pages as the paths of a tree do: a page only with all pages before it.

  Sorted by their bytes, tables with a common beginning are neighbours, so comparing neighbours finds all that is
  shared. The cost is a few passes over contiguous memory and a few Python operations a sequence.
  """
  sorting = _by_content(table, counts)
  table = table[sorting]
  counts = counts[sorting]
  run = runs[sorting]
  shared = _shared_with_previous(table, counts)
  tree = _tree(shared.tolist(), counts.tolist())
  columns = np.array(tree, np.int64).reshape(-1, 4)
  sequence, last, start, stop = columns.T
  # Row i of all is row i - (rows of the sequences before it) of its sequence, before sorting and after.
  row_after = run.cumsum()
  row_before = row_after - run
  unsorted_before = runs.cumsum() - runs
  shift = unsorted_before[sorting] - row_before
  row = np.arange(row_after[-1])
  rows = row + shift.repeat(run)
  rows = rows.astype(np.int32)
  first = row_before[sequence]
  after = row_after[last]
  spans = _Spans(table, rows, sequence=sequence, start=start, stop=stop, first=first, readers=after - first)
  return spans.take(_order(rows, first, after, start))


def _by_content(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """The order of sequences, int64 [G], that sorts them by their pages."""
  names = _page_names(table, counts)
  content = []
  for row, count in zip(names, counts.tolist()):
    listed = row[:count]
    content.append(listed.tobytes())
  order = sorted(range(len(content)), key=content.__getitem__)
  return np.array(order, np.int64)


def _page_names(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """For each listed page the first sequence that lists it, int32 [G, T].

  Two tables have equal names as far as they have equal pages, so the order of rows depends on who shares what, and not
  on the numbers of the pages.
  """
  depth = np.arange(table.shape[1])
  listed = depth < counts[:, None]
  pages = table[listed]
  row = np.arange(len(table), dtype=np.int32)
  sequence = row.repeat(counts)
  size = pages.max(initial=-1) + 1
  owner = np.zeros(size, np.int32)
  # NumPy keeps the last of several assignments, so reversed ones keep the first sequence.
  backwards = pages[::-1]
  owner[backwards] = sequence[::-1]
  names = np.zeros_like(table)
  names[listed] = owner[pages]
  return names


def _order(rows: np.ndarray, first: np.ndarray, after: np.ndarray, start: np.ndarray) -> np.ndarray:
  """The order of spans by their lowest row, then by depth.

  It depends on who reads what, and not on the numbers of the pages: sums over pages then round equally for any page
  numbers, so equal requests get equal bits in a cache that was used before.
  """
  bounds = np.stack([first, after], 1)
  bounds = bounds.reshape(-1)
  padded = np.append(rows, np.int32(len(rows)))  # `bounds` may end after the last row
  lowest = np.minimum.reduceat(padded, bounds)[::2]
  return np.lexsort((start, lowest))


def _shared_with_previous(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """How many pages each table has in common with the beginning of the table before it, int64 [G]; 0 for the first."""
  shared = np.zeros(len(table), np.int64)
  if len(table) == 1 or not table.size:
    return shared
  differ = table[1:] != table[:-1]
  any_differs = differ.any(1)
  first_difference = np.where(any_differs, differ.argmax(1), table.shape[1])
  shorter = np.minimum(counts[1:], counts[:-1])
  shared[1:] = np.minimum(first_difference, shorter)
  return shared


class _Open(NamedTuple):
  """Pages `start..stop-1` that all tables from number `sequence` to the present one share."""

  sequence: int
  start: int
  stop: int


def _tree(shared: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int, int, int]]:
  """Spans (first sequence, last sequence, first page, page after the last) of sorted tables.

  `path` holds the spans of the present table that are still open. A table that shares less closes the deeper ones, and
  cuts the one in which it branches off.
  """
  spans = []
  path: list[_Open] = []
  with_end = zip([*shared, 0], [*counts, 0])  # an empty table after the last closes all spans
  for sequence, (common, count) in enumerate(with_end):
    while path and path[-1].stop > common:
      top = path.pop()
      branch = max(top.start, common)
      spans.append((top.sequence, sequence - 1, branch, top.stop))
      if top.start < common:
        path.append(top._replace(stop=common))
    if count > common:
      path.append(_Open(sequence, common, count))
  return spans
