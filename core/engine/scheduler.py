"""Who decodes where and on which pages: host-side, without a model.

A row's tokens but the last are in its pages once it decodes; the last one is the next step's input. Pages are found by
content: samples of one prompt, forks, later turns of a conversation and preempted rows all come in through the prefix
cache, sharing full pages and copying at most one.
"""

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from core.engine.pool import Pool
from core.engine.prefixes import Prefixes
from core.engine.request import Request
from core.engine.stops import StopStrings


@dataclasses.dataclass(eq=False)
class Row:
  """One sample on its way. `content` names each token for the prefix cache: its id, or a negative name in an image."""

  id: int
  request: Request
  sample: int
  content: list[int]
  watch: StopStrings | None = None
  tokens: list[int] = dataclasses.field(default_factory=list)  # new ones
  logp: list[float] = dataclasses.field(default_factory=list)
  version: list[int] = dataclasses.field(default_factory=list)
  pages: list[int] = dataclasses.field(default_factory=list)
  filled: int = 0  # leading tokens that are in the pages
  slot: int | None = None

  @property
  def order(self) -> tuple[int, int]:
    """Less comes first."""
    return -self.request.priority, self.id

  @property
  def target(self) -> int:
    """Tokens that must be in pages before the row decodes."""
    return len(self.content) - 1

  @property
  def ready(self) -> bool:
    """Whether it can decode."""
    return self.filled == self.target

  @property
  def remaining(self) -> int:
    """New tokens still wanted."""
    return self.request.max_new - len(self.tokens)


class Scheduler:
  """Slots, pages and a queue."""

  def __init__(self, slots: int, pages: int, page_size: int, segment: int):
    self.page_size, self.segment = page_size, segment
    self.pool = Pool(pages)
    self.prefixes = Prefixes(self.pool, page_size)
    self.slots: list[Row | None] = [None] * slots
    self.preempted = 0  # so far
    self._queue: list[tuple[tuple[int, int], Row]] = []

  @property
  def running(self) -> list[Row]:
    """Rows in slots, first come first."""
    return sorted((r for r in self.slots if r is not None), key=lambda r: r.order)

  @property
  def waiting(self) -> list[Row]:
    """Rows in the queue."""
    return [row for _, row in self._queue]

  def check(self, prompt: int, new: int) -> None:
    """Raises ValueError when so many tokens would not fit even alone."""
    most = -(-(prompt + new - 1) // self.page_size)
    if most > len(self.pool.references):
      raise ValueError(
        f'a prompt of {prompt} tokens and {new} new ones need {most} pages; there are {len(self.pool.references)}'
      )

  def add(self, row: Row) -> None:
    """Queues a row. Raises ValueError when it could not finish even alone."""
    self.check(len(row.content), row.remaining)
    heapq.heappush(self._queue, (row.order, row))

  def admit(self) -> list[tuple[int, int]]:
    """Moves rows into slots while slots and pages last; returns page copies (source, target) to make before all else.

    Where they do not last, running rows of lower priority make room, the youngest of the lowest first. A row that would
    repeat what another is just filling in waits for it; of such rows as many as there are slots are passed over, so
    that samples of one prompt stay near each other.
    """
    copies, later = [], []
    filling = {key for row in self.slots if row is not None and not row.ready for key in self._prefixes_of(row)}
    while self._queue and len(later) <= len(self.slots) and (None in self.slots or self._lower(self._queue[0][1])):
      row = heapq.heappop(self._queue)[1]
      if filling and self._awaits(row, filling):
        later.append(row)
      elif (made := self._make_way(row)) is None:
        later.append(row)
        break
      else:
        copies += made
        if not row.ready:
          filling |= self._prefixes_of(row)
    for row in later:
      heapq.heappush(self._queue, (row.order, row))
    return copies

  def _prefixes_of(self, row: Row) -> set[bytes]:
    """What a row will have in its pages: each prefix of full pages, and all of it."""
    content = np.array(row.content[: row.target], np.int64)
    return {content[:n].tobytes() for n in (*range(self.page_size, row.target, self.page_size), row.target)}

  def _awaits(self, row: Row, filling: set[bytes]) -> bool:
    """Whether the first page of a row that is not known yet is being filled in."""
    content = np.array(row.content[: row.target], np.int64)
    if content.tobytes() in filling:
      return True
    pages, _ = self.prefixes.match(content)
    return content[: (len(pages) + 1) * self.page_size].tobytes() in filling

  def _lower(self, row: Row) -> list[Row]:
    """Running rows of lower priority than a row's, first come first."""
    return [r for r in self.running if r.request.priority < row.request.priority]

  def _make_way(self, row: Row) -> list[tuple[int, int]] | None:
    """As `_enter`, after rows of lower priority have left one by one; none does unless that makes room."""
    made = self._enter(row) if None in self.slots else None
    lower = self._lower(row)
    if made is None and self._fits_beside(row, self.running[: len(self.running) - len(lower)]):
      while made is None and lower:
        self.preempt(lower.pop())
        made = self._enter(row)
    return made

  def _fits_beside(self, row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row can enter when only `rows` stay."""
    shared, _ = self.prefixes.match(np.array(row.content[:-1], np.int64))
    held = {page for r in rows for page in r.pages}.union(shared)
    more = self._needs(row) - len(shared)
    return len(rows) < len(self.slots) and len(held) + more <= len(self.pool.references)

  def _enter(self, row: Row) -> list[tuple[int, int]] | None:
    """Gives a row pages and a slot: the copies to make, or None when pages are short."""
    shared, partial = self.prefixes.match(np.array(row.content[:-1], np.int64))
    for source in [partial, None] if partial else [None]:  # without the copy, its source may make room
      held = shared + ([source[0]] if source else [])
      for page in held:
        self.pool.share(page)
      row.pages = list(shared)
      if self._extend(row):
        break
      for page in held:
        self.pool.drop(page)
    else:
      row.pages = []
      return None
    row.filled = len(shared) * self.page_size
    row.slot = self.slots.index(None)
    self.slots[row.slot] = row
    if source is None:
      return []
    self.pool.drop(source[0])
    row.filled += source[1]
    return [(source[0], row.pages[len(shared)])]

  def _needs(self, row: Row) -> int:
    """Pages of everything up to the end of the next segment."""
    return -(-(row.target + min(self.segment, row.remaining)) // self.page_size)

  def _extend(self, row: Row) -> bool:
    """Pages for everything up to the end of the next segment, or none at all."""
    need = self._needs(row) - len(row.pages)
    self.prefixes.evict(need)
    if self.pool.free < need:
      return False
    row.pages += [self.pool.take() for _ in range(need)]
    return True

  def grow(self) -> None:
    """Gives each row that decodes the pages of its next segment; where they are short, the youngest is preempted."""
    for row in self.running:
      while row.slot is not None and row.ready and not self._extend(row):
        self.preempt(self.running[-1])

  def unfilled(self, tokens: int) -> list[tuple[Row, int, int]]:
    """The next prompt tokens to fill in: (row, start, stop), at most `tokens` of them."""
    work = []
    for row in self.running:
      count = min(row.target - row.filled, tokens)
      if count:
        work.append((row, row.filled, row.filled + count))
        tokens -= count
    return work

  def filled(self, row: Row, stop: int) -> None:
    """Notes that a row's tokens up to `stop` are in its pages; complete prompts become known to others."""
    row.filled = stop
    if row.ready:
      self.remember(row)

  def append(self, row: Row, tokens: Sequence[int], logp: Sequence[float], version: int, filled: int) -> None:
    """Notes new tokens; the first `filled` inputs of the segment are in the pages."""
    row.content += tokens
    row.tokens += tokens
    row.logp += logp
    row.version += [version] * len(tokens)
    row.filled = min(row.filled + filled, row.target)

  def remember(self, row: Row) -> None:
    """Lets others find what a row has in its pages."""
    self.prefixes.insert(np.array(row.content[: row.filled], np.int64), row.pages)

  def leave(self, row: Row) -> None:
    """Takes a row out of its slot or the queue; its pages stay findable until they are needed."""
    if row.slot is None:
      self._queue = [(order, r) for order, r in self._queue if r is not row]
      heapq.heapify(self._queue)
      return
    self.remember(row)
    for page in row.pages:
      self.pool.drop(page)
    self.slots[row.slot] = None
    row.pages, row.filled, row.slot = [], 0, None

  def preempt(self, row: Row) -> None:
    """Sends a row back to the queue, to be filled in again from what the prefix cache still has by then."""
    self.leave(row)
    self.preempted += 1
    heapq.heappush(self._queue, (row.order, row))

  def forget(self) -> None:
    """Empties all pages, as when the weights change: running rows go on after being filled in again."""
    for row in self.running:
      self.leave(row)
      heapq.heappush(self._queue, (row.order, row))
    self.prefixes.clear()
