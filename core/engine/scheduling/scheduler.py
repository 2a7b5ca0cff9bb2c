"""Who decodes where and on which pages: on the host, without a model.

Pages are found by content: samples of one prompt, forks, later turns of a conversation and preempted sequences all
enter through the prefix cache, share full pages and copy at most one.
"""

import bisect
import heapq
import operator
from collections.abc import Sequence as Many

import numpy as np

from core.engine.scheduling.pages import PagePool
from core.engine.scheduling.prefix_cache import Match, Node, Partial, PrefixCache
from core.engine.scheduling.queue import WaitQueue
from core.engine.scheduling.rows import Rows
from core.engine.scheduling.sequence import Sequence

ORDER = operator.attrgetter('order')


class Scheduler:
  """Slots, pages and a queue.

  max_length: tokens of the longest sequence; by default what the pages hold. Public state: slots, running (sequences in
  slots, first come first), filling (those whose prompt is not prefilled yet), rows (what those in slots have), queue,
  pool, cache; preempted, admitted and examined (sequences considered for a slot), counts so far.
  """

  def __init__(self, slots: int, pages: int, page_size: int, segment: int, max_length: int | None = None):
    self.page_size = page_size
    self.segment = segment
    self.pool = PagePool(pages)
    self.cache = PrefixCache(self.pool, page_size)
    self.longest = pages if max_length is None else min(pages, -(-max_length // page_size))
    self.rows = Rows(slots, self.longest, page_size)
    self.slots: list[Sequence | None] = [None] * slots
    self.running: list[Sequence] = []
    self.filling: list[Sequence] = []
    self.queue = WaitQueue()
    self.preempted = self.admitted = self.examined = 0
    self._prefilling: set[tuple] = set()  # `unknown` of those in filling
    self._free_slots = list(range(slots))  # a heap: the lowest is taken first

  def check(self, prompt: int, new: int) -> None:
    """Raises ValueError if the request cannot fit even when the cache is empty."""
    most = -(-(prompt + new - 1) // self.page_size)
    if most > self.longest:
      raise ValueError(f'a prompt of {prompt} tokens and {new} new ones need {most} pages; there are {self.longest}')

  def add(self, *samples: Sequence) -> None:
    """Queues samples of one prompt. Raises ValueError if they could not finish even alone."""
    first = samples[0]
    self.check(first.prompt.length, first.request.max_new)
    self.queue.push(*samples)

  def admit(self, most: int) -> list[tuple[int, int]]:
    """Moves at most `most` sequences into slots while slots and pages last.

    Returns page copies (source, target) to make first.

    If they do not last, running sequences of lower priority are preempted, the youngest of the lowest first. A sequence
    that would repeat what another is prefilling waits for it, with the other samples of its prompt. At most one more of
    such groups than there are slots, or than `most`, is passed over, so the cost of a call does not depend on the
    length of the queue.
    """
    copies = []
    passed = []
    last = self.admitted + most
    most_passed = min(most, len(self.slots))
    while self.admitted < last and len(passed) <= most_passed and self.may_enter():
      sequence = self.queue.first()
      self.examined += 1
      match = self._match(sequence)
      if self._unknown(sequence, match.node, match.stop) in self._prefilling:
        passed.append(self.queue.pass_over())
        continue
      self.queue.pop()
      made = self._make_way(sequence, match)
      if made is None:
        self.queue.push(sequence)
        break
      copies += made
      self.admitted += 1
      if not self.rows.is_ready(sequence.slot):
        self._begin_filling(sequence)
    self.queue.put_back(passed)
    return copies

  def grow(self) -> None:
    """Gives each decoding sequence the pages of its next segment; if they are short, the youngest is preempted."""
    rows = self.rows
    most = rows.target + np.minimum(self.segment, rows.wanted - rows.new)
    needed = -(-most // self.page_size)
    more = np.where(rows.ready, np.maximum(needed - rows.pages, 0), 0)
    fresh = self._take(int(more.sum()))
    if fresh is None:
      self._grow_one_by_one()
    else:
      rows.add_pages(more, fresh)

  def unfilled(self, tokens: int, pages: int | None = None) -> list[tuple[Sequence, int, int]]:
    """The next prompt tokens to prefill: (sequence, start, stop), at most `tokens` that read at most `pages` pages."""
    work = []
    for sequence in self.filling:
      start = self.rows.filled.item(sequence.slot)
      count = min(self.rows.length(sequence) - 1 - start, tokens)
      if not count:
        break
      stop = start + count
      read = -(-stop // self.page_size)
      if work and pages is not None and read > pages:
        break
      work.append((sequence, start, stop))
      tokens -= count
      pages = None if pages is None else pages - read
    return work

  def set_filled(self, sequence: Sequence, stop: int) -> None:
    """Records that a sequence's tokens up to `stop` are in its pages; complete prompts can be found by others."""
    if sequence.slot is None:  # it left while they were computed
      return
    self.rows.filled[sequence.slot] = stop
    if self.rows.is_ready(sequence.slot):
      self._end_filling(sequence)
      self.share_pages(sequence)

  def share_pages(self, sequence: Sequence) -> None:
    """Lets others find what a running sequence has in its pages; it takes over pages that others filled equally."""
    slot = sequence.slot
    known = sequence.node.stop
    content = self.rows.content(sequence, known * self.page_size, self.rows.filled.item(slot))
    sequence.node = self.cache.insert(sequence.node, content, self.rows.table[slot, known:])

  def remove(self, sequence: Sequence, *, share: bool = True) -> None:
    """Takes a sequence out of its slot or the queue. share: its pages can be found until they are evicted."""
    slot = sequence.slot
    if slot is None:
      self.queue.remove(sequence)
      return
    if share:
      self.share_pages(sequence)
    own = slice(sequence.node.stop, self.rows.pages.item(slot))
    self.pool.drop(self.rows.table[slot, own])
    self.cache.release(sequence.node)
    self._drop(self.running, sequence)
    self._end_filling(sequence)
    heapq.heappush(self._free_slots, slot)
    self.slots[slot] = sequence.node = None
    self.rows.leave(sequence)

  def preempt(self, sequence: Sequence) -> None:
    """Sends a running sequence back to the queue, to be prefilled again where the prefix cache no longer has it."""
    self.remove(sequence)
    self.preempted += 1
    self.queue.push(sequence)

  def clear(self) -> None:
    """Empties all pages, as when the weights change; running sequences are prefilled again."""
    for sequence in list(self.running):
      self.remove(sequence, share=False)
      self.queue.push(sequence)
    self.cache.clear()

  def may_enter(self) -> bool:
    """Whether the next sequence of the queue could have a slot."""
    first = self.queue.first()
    if first is None or self._free_slots:
      return first is not None
    return self.running[-1].request.priority < first.request.priority

  def _match(self, sequence: Sequence) -> Match:
    """The pages of a waiting sequence that the cache has."""
    full = (self.rows.length(sequence) - 1) // self.page_size
    return self.cache.match(self.rows.content(sequence, 0, full * self.page_size))

  def _page_after(self, sequence: Sequence, stop: int) -> bytes:
    """The content of the page after the first `stop`, as far as it is to be prefilled."""
    start = stop * self.page_size
    end = min(self.rows.length(sequence) - 1, start + self.page_size)
    return self.rows.content(sequence, start, end)

  def _unknown(self, sequence: Sequence, node: Node, stop: int) -> tuple:
    """Names the first page that the cache lacks: equal for two sequences that would prefill the same page."""
    return node, stop, self._page_after(sequence, stop)

  def _make_way(self, sequence: Sequence, match: Match) -> list[tuple[int, int]] | None:
    """As `_enter`, preempting sequences of lower priority one by one; none if all of them would not be enough."""
    made = None
    if self._free_slots:
      made = self._enter(sequence, match)
    if made is not None:
      return made
    lower = [s for s in self.running if s.request.priority < sequence.request.priority]
    staying = self.running[: len(self.running) - len(lower)]
    if not lower or not self._fits_with(sequence, staying):
      return None
    while made is None and lower:
      self.preempt(lower.pop())
      made = self._enter(sequence, self._match(sequence))
    return made

  def _fits_with(self, sequence: Sequence, staying: Many[Sequence]) -> bool:
    """Whether a sequence can enter when only `staying` keep their slots."""
    match = self._match(sequence)
    held = np.zeros(len(self.pool.references), bool)
    tables = [self.rows.table[s.slot, : self.rows.pages.item(s.slot)] for s in staying]
    for pages in [*match.pages, *tables]:
      held[pages] = True
    more = self._pages_needed(sequence) - match.stop
    return len(staying) < len(self.slots) and held.sum() + more <= len(held)

  def _enter(self, sequence: Sequence, match: Match) -> list[tuple[int, int]] | None:
    """Gives a sequence pages and a slot: the copies to make, or None if pages are short."""
    node = self.cache.hold(match)
    partial = self.cache.partial(node, self._page_after(sequence, node.stop))
    more = self._pages_needed(sequence) - node.stop
    fresh = self._take_but(more, partial) if partial else None
    if fresh is None:
      partial = None  # without the copy, its source may be evicted
      fresh = self._take(more)
    if fresh is None:
      self.cache.release(node)
      return None
    slot = heapq.heappop(self._free_slots)
    self._occupy(slot, sequence, node)
    self._set_table(slot, [*match.pages, fresh])
    self.rows.filled[slot] = node.stop * self.page_size
    if partial is None:
      return []
    self.rows.filled[slot] += partial.tokens
    return [(partial.node.pages.item(0), fresh.item(0))]

  def _occupy(self, slot: int, sequence: Sequence, node: Node) -> None:
    self.rows.enter(slot, sequence)
    self.slots[slot] = sequence
    sequence.node = node
    bisect.insort(self.running, sequence, key=ORDER)

  def _set_table(self, slot: int, parts: Many[np.ndarray]) -> None:
    stop = 0
    for pages in parts:
      start = stop
      stop = stop + len(pages)
      self.rows.table[slot, start:stop] = pages
    self.rows.pages[slot] = stop

  def _take(self, count: int) -> np.ndarray | None:
    """Free pages, after evicting others; None if there are not enough."""
    if self.pool.free < count:
      self.cache.evict(count)
    if self.pool.free >= count:
      return self.pool.take(count)
    return None

  def _take_but(self, count: int, source: Partial) -> np.ndarray | None:
    """As `_take`, without evicting the source of a copy."""
    source.node.users += 1
    fresh = self._take(count)
    self.cache.release(source.node)
    return fresh

  def _pages_needed(self, sequence: Sequence) -> int:
    """Pages of everything up to the end of the next segment."""
    new = self.rows.count(sequence)
    target = sequence.prompt.length + new - 1
    return -(-(target + min(self.segment, sequence.request.max_new - new)) // self.page_size)

  def _grow_one_by_one(self) -> None:
    for sequence in list(self.running):
      while sequence.slot is not None and self.rows.is_ready(sequence.slot) and not self._extend(sequence):
        self.preempt(self.running[-1])

  def _extend(self, sequence: Sequence) -> bool:
    """Gives a running sequence the pages of its next segment, or none at all."""
    slot = sequence.slot
    known = self.rows.pages.item(slot)
    needed = self._pages_needed(sequence)
    fresh = self._take(max(needed - known, 0))
    if fresh is None:
      return False
    self.rows.table[slot, known : known + len(fresh)] = fresh
    self.rows.pages[slot] += len(fresh)
    return True

  def _begin_filling(self, sequence: Sequence) -> None:
    sequence.unknown = self._unknown(sequence, sequence.node, sequence.node.stop)
    self._prefilling.add(sequence.unknown)
    bisect.insort(self.filling, sequence, key=ORDER)

  def _end_filling(self, sequence: Sequence) -> None:
    if sequence.unknown is not None:
      self._prefilling.discard(sequence.unknown)
      sequence.unknown = None
      self._drop(self.filling, sequence)

  @staticmethod
  def _drop(ordered: list[Sequence], sequence: Sequence) -> None:
    del ordered[bisect.bisect_left(ordered, sequence.order, key=ORDER)]
