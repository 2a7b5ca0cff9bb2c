"""Whose call is next: start-time fair queueing of the workers' time (Goyal, Vin and Cheng, SIGCOMM 1996).

Each trajectory has used some time on a clock that all share, and the one that has used least is next. The clock shows
the time of the trajectory served last; one that comes back starts there at the earliest, so nobody saves up time.
Trajectories with long calls get fewer of them, and none can starve another by the number or length of its calls.
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
    used = self._at(name, self._now())
    number = next(self._numbers)
    heapq.heappush(self._waiting, (used, number, name))

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
      elif self._is_overtaken(place):
        heapq.heappush(self._waiting, place)
      else:
        chosen = name
    for place in passed:
      heapq.heappush(self._waiting, place)
    if chosen is not None:
      used = self._used.get(chosen, 0.0)
      self._clock = max(used, self._clock)
      self._used[chosen] = self._clock
      self._running.setdefault(chosen, []).append(now)
    return chosen

  def _is_overtaken(self, place: tuple[float, int, Hashable]) -> bool:
    """Whether the time of its calls that ran while a trajectory waited puts it behind another one."""
    if not self._waiting:
      return False
    used, number, _ = place
    first_used, first_number, _ = self._waiting[0]
    return (used, number) > (first_used, first_number) and used > self._clock

  def end(self, name: Hashable) -> None:
    """A call of the trajectory has ended, of several the one that began first."""
    began = self._running[name].pop(0)
    if not self._running[name]:
      del self._running[name]
    self._used[name] += self._now() - began
    if len(self._used) > self._kept:
      self._used = {name: used for name, used in self._used.items() if self._is_needed(name, used)}
      self._kept = 2 * len(self._used) + 64

  def _is_needed(self, name: Hashable, used: float) -> bool:
    """Whether a trajectory is ahead of the clock or has a running call."""
    return used > self._clock or name in self._running

  def clear(self) -> None:
    """Nobody waits any more."""
    self._waiting.clear()

  def _at(self, name: Hashable, now: float) -> float:
    """The time of a trajectory on the clock, its running calls counted."""
    calls = self._running.get(name, ())
    running = sum(now - began for began in calls)
    used = self._used.get(name, 0.0)
    return max(used, self._clock) + running
