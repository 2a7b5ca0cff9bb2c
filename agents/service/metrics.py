"""What a dispatcher counts."""

import collections
import time

from agents.sandbox import STATUSES, Result

_RECENT = 4096  # calls over which latencies are taken


class Metrics:
  """Counts of calls by status, retries, evictions, callers that left; recent latencies; the workers' busy share."""

  def __init__(self, workers: int):
    self.workers = workers
    self.started = time.monotonic()
    self.statuses = dict.fromkeys(STATUSES, 0)
    self.retries = self.evicted = self.left = 0
    self.busy = 0.0  # worker seconds
    self._recent: collections.deque[tuple[float, float]] = collections.deque(maxlen=_RECENT)

  def add(self, result: Result) -> None:
    """Counts a call that was answered."""
    self.statuses[result.status] += 1
    self.busy += result.seconds
    self._recent.append((result.queued, result.seconds))

  def figures(self) -> dict:
    """Numbers by name: seconds, counts, fractions."""
    up = time.monotonic() - self.started
    calls = sum(self.statuses.values())
    figures = {
      'calls': calls,
      'calls_per_second': calls / up,
      'uptime': up,
      'busy': self.busy / (up * self.workers),
      'retries': self.retries,
      'evicted_sessions': self.evicted,
      'callers_left': self.left,
    }
    figures |= {f'status_{name}': count for name, count in self.statuses.items()}
    times = zip(*((queued, run, queued + run) for queued, run in self._recent))
    for name, values in zip(('queued', 'run', 'total'), times):
      ranked = sorted(values)
      for percent in (50, 95, 99):
        place = min(len(ranked) * percent // 100, len(ranked) - 1)
        figures[f'{name}_p{percent}'] = ranked[place]
    return figures
