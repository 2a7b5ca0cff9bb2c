"""Who decodes where and on which pages: on the host, without a model.

All tokens of a decoding sequence but the last are in its pages; the last one is the next step's input. Pages are found
by content: samples of one prompt, forks, later turns of a conversation and preempted sequences all enter through the
prefix cache, share full pages and copy at most one.
"""

import bisect
import heapq
import operator
from array import array
from collections.abc import Iterable

import numpy as np

from core.engine.scheduling.pages import PagePool
from core.engine.scheduling.prefix_cache import Match, PrefixCache
from core.engine.scheduling.queue import WaitQueue
from core.engine.scheduling.sequence import NO_PAGES, Sequence

ORDER = operator.attrgetter('order')
Values = list | np.ndarray


class Scheduler:
  """Slots, pages and a queue.

  max_length: tokens of the longest sequence; by default what the pages hold. Public state: slots, running (sequences in
  slots, first come first), filling (those whose prompt is not prefilled yet), queue, pool, cache; tables int32
  [slots, longest] with counts int32 [slots], the block table of each slot; preempted and examined (sequences considered
  for a slot), counts so far.
  """

  def __init__(self, slots: int, pages: int, page_size: int, segment: int, max_length: int | None = None):
    self.page_size, self.segment = page_size, segment
    self.pool = PagePool(pages)
    self.cache = PrefixCache(self.pool, page_size)
    self.longest = pages if max_length is None else min(pages, -(-max_length // page_size))
    self.slots: list[Sequence | None] = [None] * slots
    self.running: list[Sequence] = []
    self.filling: list[Sequence] = []
    self.queue = WaitQueue()
    self.tables = np.zeros((slots, self.longest), np.int32)
    self.counts = np.zeros(slots, np.int32)
    self.preempted = self.examined = 0
    self._free_slots = list(range(slots))  # a heap: the lowest is taken first

  def check(self, prompt: int, new: int) -> None:
    """Raises ValueError if the request cannot fit even when the cache is empty."""
    most = -(-(prompt + new - 1) // self.page_size)
    if most > self.longest:
      raise ValueError(f'a prompt of {prompt} tokens and {new} new ones need {most} pages; there are {self.longest}')

  def add(self, sequence: Sequence) -> None:
    """Queues a sequence. Raises ValueError if it could not finish even alone."""
    self.check(len(sequence.content), sequence.remaining)
    self.queue.push(sequence)

  def admit(self) -> list[tuple[int, int]]:
    """Moves sequences into slots while slots and pages last; returns page copies (source, target) to make first.

    If they do not last, running sequences of lower priority are preempted, the youngest of the lowest first. A sequence
    that would repeat what another is prefilling waits for it; of such at most one more than there are slots are passed
    over, so the cost of a call does not depend on the length of the queue.
    """
    copies, passed = [], []
    prefilling = {s.unknown for s in self.filling}
    while len(passed) <= len(self.slots) and self._may_enter():
      sequence = self.queue.pop()
      self.examined += 1
      match = self.cache.match(sequence.content, sequence.target)
      unknown = self._first_unknown(sequence, match)
      if unknown in prefilling:
        passed.append(sequence)
        continue
      made = self._make_way(sequence, match)
      if made is None:
        passed.append(sequence)
        break
      copies += made
      if not sequence.ready:
        sequence.unknown = unknown
        prefilling.add(unknown)
        bisect.insort(self.filling, sequence, key=ORDER)
    for sequence in passed:
      self.queue.push(sequence)
    return copies

  def _may_enter(self) -> bool:
    """Whether the next sequence of the queue could have a slot."""
    first = self.queue.first()
    if first is None or self._free_slots:
      return first is not None
    return self.running[-1].request.priority < first.request.priority

  def _first_unknown(self, sequence: Sequence, match: Match) -> tuple:
    """Names the first page that the cache lacks: equal for two sequences that would prefill the same page."""
    depth = len(match.pages)
    stop = min(sequence.target, (depth + 1) * self.page_size)
    return match.node, sequence.content.part(depth, stop)

  def _make_way(self, sequence: Sequence, match: Match) -> list[tuple[int, int]] | None:
    """As `_enter`, preempting sequences of lower priority one by one; none if all of them would not be enough."""
    made = self._enter(sequence, match) if self._free_slots else None
    if made is not None:
      return made
    lower = [s for s in self.running if s.request.priority < sequence.request.priority]
    staying = self.running[: len(self.running) - len(lower)]
    if not lower or not self._fits_with(sequence, staying):
      return None
    while made is None and lower:
      self.preempt(lower.pop())
      match = self.cache.match(sequence.content, sequence.target)
      made = self._enter(sequence, match)
    return made

  def _fits_with(self, sequence: Sequence, staying: Iterable[Sequence]) -> bool:
    """Whether a sequence can enter when only `staying` keep their slots."""
    staying = list(staying)
    shared = self.cache.match(sequence.content, sequence.target).pages
    held = np.zeros(len(self.pool.references), bool)
    for pages in [shared, *(s.pages for s in staying)]:
      held[pages] = True
    more = self._pages_needed(sequence) - len(shared)
    return len(staying) < len(self.slots) and held.sum() + more <= len(held)

  def _enter(self, sequence: Sequence, match: Match) -> list[tuple[int, int]] | None:
    """Gives a sequence pages and a slot: the copies to make, or None if pages are short."""
    partial = self.cache.partial(sequence.content, sequence.target, match)
    more = self._pages_needed(sequence) - len(match.pages)
    if len(match.pages):
      self.pool.share(match.pages)
    fresh = self._take(more, keep=partial.page) if partial else None
    if fresh is None:
      partial = None  # without the copy, its source may be evicted
      fresh = self._take(more)
    if fresh is None:
      self.cache.release(match.pages)
      return None
    slot = sequence.slot = heapq.heappop(self._free_slots)
    self.slots[slot] = sequence
    bisect.insort(self.running, sequence, key=ORDER)
    self._set_pages(sequence, 0, np.concatenate([match.pages, fresh]))
    sequence.node, sequence.shared = match.node, len(match.pages)
    sequence.filled = sequence.shared * self.page_size
    if partial is None:
      return []
    sequence.filled += partial.tokens
    return [(partial.page, int(fresh[0]))]

  def _take(self, count: int, keep: int | None = None) -> np.ndarray | None:
    """Free pages, after evicting others but `keep`; None if there are not enough."""
    if self.pool.free < count:
      self._evict(count, keep)
    return self.pool.take(count) if self.pool.free >= count else None

  def _evict(self, count: int, keep: int | None) -> None:
    if keep is not None:
      self.pool.share_one(keep)
    self.cache.evict(count)
    if keep is not None:
      self.cache.release_one(keep)

  def _set_pages(self, sequence: Sequence, start: int, pages: np.ndarray) -> None:
    slot, stop = sequence.slot, start + len(pages)
    self.tables[slot, start:stop] = pages
    self.counts[slot] = stop
    sequence.pages = self.tables[slot, :stop]

  def _pages_needed(self, sequence: Sequence) -> int:
    """Pages of everything up to the end of the next segment."""
    return -(-(sequence.target + min(self.segment, sequence.remaining)) // self.page_size)

  def _extend(self, sequence: Sequence) -> bool:
    """Gives a running sequence the pages of its next segment, or none at all."""
    more = self._pages_needed(sequence) - len(sequence.pages)
    if more <= 0:
      return True
    fresh = self._take(more)
    if fresh is None:
      return False
    self._set_pages(sequence, len(sequence.pages), fresh)
    return True

  def grow(self) -> None:
    """Gives each decoding sequence the pages of its next segment; if they are short, the youngest is preempted."""
    wanting = [(s, self._pages_needed(s) - len(s.pages)) for s in self.running if s.ready]
    wanting = [(s, more) for s, more in wanting if more > 0]
    fresh = self._take(sum(more for _, more in wanting))  # at once: a call for each page costs as much as all of them
    if fresh is None:
      self._grow_one_by_one()
      return
    stop = 0
    for sequence, more in wanting:
      start, stop = stop, stop + more
      self._set_pages(sequence, len(sequence.pages), fresh[start:stop])

  def _grow_one_by_one(self) -> None:
    for sequence in list(self.running):
      while sequence.slot is not None and sequence.ready and not self._extend(sequence):
        self.preempt(self.running[-1])

  def unfilled(self, tokens: int, pages: int | None = None) -> list[tuple[Sequence, int, int]]:
    """The next prompt tokens to prefill: (sequence, start, stop), at most `tokens` that read at most `pages` pages."""
    work = []
    for sequence in self.filling:
      count = min(sequence.target - sequence.filled, tokens)
      if not count:
        break
      stop = sequence.filled + count
      read = -(-stop // self.page_size)
      if work and pages is not None and read > pages:
        break
      work.append((sequence, sequence.filled, stop))
      tokens -= count
      pages = None if pages is None else pages - read
    return work

  def set_filled(self, sequence: Sequence, stop: int) -> None:
    """Records that a sequence's tokens up to `stop` are in its pages; complete prompts can be found by others."""
    if sequence.slot is None:  # it left while they were computed
      return
    sequence.filled = stop
    if sequence.ready:
      self._drop(self.filling, sequence)
      self.share_pages(sequence)

  def append(self, sequence: Sequence, tokens: Values, logp: Values, version: int, filled: int) -> None:
    """Adds new tokens, best as int64 and float32 arrays; the first `filled` inputs of the segment are in the pages."""
    sequence.content.append(tokens)
    sequence.logp.frombytes(np.asarray(logp, np.float32).tobytes())
    sequence.version += array('i', [version]) * len(tokens)
    sequence.filled = min(sequence.filled + filled, sequence.target)
    if sequence.filled // self.page_size > sequence.shared:  # a page at a time: all of them at the end would be slow
      self.share_pages(sequence, partial=False)

  def share_pages(self, sequence: Sequence, *, partial: bool = True) -> None:
    """Lets others find what a running sequence has in its pages, with a last one that is not full if `partial`.

    The sequence takes over pages that another filled with the same content. Then it holds every page above one of its
    own in the tree, so what it does not hold can be evicted.
    """
    content, filled = sequence.content, sequence.filled
    node = self.cache.insert(content, filled, sequence.pages, sequence.node, sequence.shared, partial=partial)
    sequence.node, sequence.shared = node, filled // self.page_size

  def remove(self, sequence: Sequence, *, share: bool = True) -> None:
    """Takes a sequence out of its slot or the queue. share: its pages can be found until they are evicted."""
    if sequence.slot is None:
      self.queue.remove(sequence)
      return
    if share:
      self.share_pages(sequence)
    self.cache.release(sequence.pages)
    self._drop(self.running, sequence)
    if not sequence.ready:
      self._drop(self.filling, sequence)
    heapq.heappush(self._free_slots, sequence.slot)
    self.slots[sequence.slot], self.counts[sequence.slot] = None, 0
    sequence.pages, sequence.filled, sequence.slot = NO_PAGES, 0, None
    sequence.node, sequence.shared = None, 0

  @staticmethod
  def _drop(ordered: list[Sequence], sequence: Sequence) -> None:
    del ordered[bisect.bisect_left(ordered, sequence.order, key=ORDER)]

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
