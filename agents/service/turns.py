"""Whose call is next: start-time fair queueing of the workers' time (Goyal, Vin and Cheng, SIGCOMM 1996).

Each trajectory has used some time on a clock that all share, and the one that has used least is next. The clock stands
where the trajectory served last stood; one that comes back starts there at the earliest, so nobody saves up. Long calls
come less often than short ones, and no trajectory keeps another out, however many calls it has or how long they are.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Hashable


class Turns:
  """The trajectories that wait for their next call. now: a clock in seconds."""

  def __init__(self, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._clock = 0.0
    self._used: dict[Hashable, float] = {}  # seconds of those that are ahead of the clock or have a running call
    self._running: dict[Hashable, list[float]] = {}  # when their running calls began
    self._waiting: list[tuple[float, int, Hashable]] = []  # a heap of (used when it came, number, trajectory)
    self._numbers = itertools.count()
    self._kept = 64  # entries of `_used` beyond which it is tidied

  def wait(self, name: Hashable) -> None:
    """The trajectory wants a turn. It waits once, however many calls it has."""
    heapq.heappush(self._waiting, (self._at(name, self._now()), next(self._numbers), name))

  def begin(self, ready: Callable[[Hashable], bool]) -> Hashable | None:
    """The trajectory whose turn it is, of those that are `ready`; its call begins. None if there is none."""
    now = self._now()
    passed = []
    chosen = None
    while self._waiting and chosen is None:
      _, number, name = heapq.heappop(self._waiting)
      place = (self._at(name, now), number, name)
      if not ready(name):
        passed.append(place)
      elif self._waiting and place[:2] > self._waiting[0][:2] and place[0] > self._clock:
        heapq.heappush(self._waiting, place)  # its running calls have gone on since it came
      else:
        chosen = name
    for place in passed:
      heapq.heappush(self._waiting, place)
    if chosen is not None:
      self._clock = self._used[chosen] = max(self._used.get(chosen, 0.0), self._clock)
      self._running.setdefault(chosen, []).append(now)
    return chosen

  def end(self, name: Hashable) -> None:
    """A call of the trajectory has ended, of several the one that began first."""
    began = self._running[name].pop(0)
    if not self._running[name]:
      del self._running[name]
    self._used[name] += self._now() - began
    if len(self._used) > self._kept:
      self._used = {n: used for n, used in self._used.items() if used > self._clock or n in self._running}
      self._kept = 2 * len(self._used) + 64

  def clear(self) -> None:
    """Nobody waits any more."""
    self._waiting.clear()

  def _at(self, name: Hashable, now: float) -> float:
    """Where a trajectory stands on the clock, its running calls counted."""
    running = sum(now - began for began in self._running.get(name, ()))
    return max(self._used.get(name, 0.0), self._clock) + running
