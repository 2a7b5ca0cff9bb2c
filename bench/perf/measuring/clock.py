"""Times of arms that take turns, so that what else the machine does slows all of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

Arms = Mapping[str, Callable[[], Any]]


def fastest(arms: Arms, *, repeats: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
  """Least seconds of each arm over interleaved repeats; by default of the processor."""
  times: dict[str, list[float]] = {name: [] for name in arms}
  for _ in range(repeats):
    for name, run in arms.items():
      seconds, _ = timed(run, clock=clock)
      times[name].append(seconds)
  return {name: min(t) for name, t in times.items()}


def timed(run: Callable[[], Any], *, clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
  """(seconds of one call, its result)."""
  start = clock()
  result = run()
  return clock() - start, result
