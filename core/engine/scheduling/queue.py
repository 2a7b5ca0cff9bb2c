"""The queue of sequences that wait for a slot: by priority, then first come first served."""

import heapq

from core.engine.scheduling.sequence import Sequence


class WaitQueue:
  """A heap. Removing marks the entry only, in constant time; marked entries are dropped when they surface."""

  def __init__(self):
    self._heap: list[tuple[tuple[int, int], Sequence]] = []
    self._waiting: set[int] = set()  # ids; an entry whose id is missing is dead

  def __len__(self) -> int:
    return len(self._waiting)

  def __iter__(self):
    return (s for _, s in self._heap if s.id in self._waiting)

  def push(self, sequence: Sequence) -> None:
    """Adds a sequence, which must have left the heap."""
    self._waiting.add(sequence.id)
    heapq.heappush(self._heap, (sequence.order, sequence))

  def remove(self, sequence: Sequence) -> None:
    """Takes a sequence out for good."""
    self._waiting.discard(sequence.id)
    if len(self._heap) > 2 * len(self._waiting) + 16:  # dead entries stay fewer than live ones: constant, amortised
      self._heap = [entry for entry in self._heap if entry[1].id in self._waiting]
      heapq.heapify(self._heap)

  def first(self) -> Sequence | None:
    """The next sequence, which stays."""
    while self._heap and self._heap[0][1].id not in self._waiting:
      heapq.heappop(self._heap)
    return self._heap[0][1] if self._heap else None

  def pop(self) -> Sequence:
    """The next sequence. Raises IndexError if there is none."""
    sequence = self.first()
    if sequence is None:
      raise IndexError('the queue is empty')
    heapq.heappop(self._heap)
    self._waiting.discard(sequence.id)
    return sequence
