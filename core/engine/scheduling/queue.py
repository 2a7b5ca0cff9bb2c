"""The queue of sequences that wait for a slot: by priority, then first come first served."""

import heapq

from core.engine.scheduling.sequence import Sequence

Group = tuple[tuple[int, int], list[int]]  # order of the next sequence, and ids, the next one last


class WaitQueue:
  """A heap of groups, each of samples of one prompt that were submitted together.

  Samples of a group enter one by one, but a group that has to wait is passed over as a whole. Removing a sequence
  takes constant time: its id stays in the heap, and is dropped when it surfaces.
  """

  def __init__(self):
    self._heap: list[Group] = []
    self._waiting: dict[int, Sequence] = {}
    self._entries = 0  # ids in the heap, removed ones included

  def __len__(self) -> int:
    return len(self._waiting)

  def __iter__(self):
    return iter(self._waiting.values())

  def push(self, *sequences: Sequence) -> None:
    """Adds samples of one prompt, in their order."""
    for sequence in sequences:
      self._waiting[sequence.id] = sequence
    self._entries += len(sequences)
    ids = [s.id for s in reversed(sequences)]
    heapq.heappush(self._heap, (sequences[0].order, ids))

  def remove(self, sequence: Sequence) -> None:
    """Takes a sequence out for good."""
    self._waiting.pop(sequence.id, None)
    if self._entries > 2 * len(self._waiting) + 16:  # removed ones stay fewer than waiting ones: constant, amortised
      self._drop_removed()

  def first(self) -> Sequence | None:
    """The next sequence, which stays."""
    while self._heap:
      ids = self._heap[0][1]
      if ids[-1] in self._waiting:
        return self._waiting[ids[-1]]
      self._drop_first()
    return None

  def pop(self) -> Sequence:
    """The next sequence. Raises IndexError if there is none."""
    sequence = self.first()
    if sequence is None:
      raise IndexError('the queue is empty')
    del self._waiting[sequence.id]
    self._drop_first()
    return sequence

  def pass_over(self) -> Group:
    """Takes the group of the next sequence out, until `put_back`. Raises IndexError if there is none."""
    return heapq.heappop(self._heap)

  def put_back(self, groups: list[Group]) -> None:
    """Returns groups that were passed over."""
    for group in groups:
      heapq.heappush(self._heap, group)

  def _drop_first(self) -> None:
    (priority, _), ids = self._heap[0]
    ids.pop()
    self._entries -= 1
    if ids:
      heapq.heapreplace(self._heap, ((priority, ids[-1]), ids))
    else:
      heapq.heappop(self._heap)

  def _drop_removed(self) -> None:
    kept = []
    for (priority, _), ids in self._heap:
      waiting = [id for id in ids if id in self._waiting]
      if waiting:
        kept.append(((priority, waiting[-1]), waiting))
    self._heap, self._entries = kept, len(self._waiting)
    heapq.heapify(self._heap)
