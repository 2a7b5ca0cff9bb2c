"""Calls that may raise or never return: each costs itself alone, never the run."""

import collections
import concurrent.futures
import queue
from collections.abc import Callable, Iterable, Sequence

from absl import logging

from rl.rewards.guards.limited import Limited, Outcome

Job = tuple[tuple, Sequence[tuple]]  # arguments that all calls share, and the others of each call


class Guard:
  """`Guard(function)(jobs)`: outcomes of calls, from processes under a time limit.

  function: as `Limited` takes it. seconds: wall-clock limit of a call. workers: processes, which start when needed.
  """

  def __init__(self, function: Callable, *, seconds: float = 10.0, workers: int = 2):
    if not 0 < seconds < float('inf') or workers < 1:
      raise ValueError(f'seconds={seconds}, workers={workers}: expected a positive limit and at least 1 process')
    self._idle = queue.SimpleQueue()
    self._workers = [Limited(function, seconds) for _ in range(workers)]
    for worker in self._workers:
      self._idle.put(worker)
    self._threads = concurrent.futures.ThreadPoolExecutor(workers)

  def __call__(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
    """For each job the outcomes of its calls, in order. What was lost is logged, by reason."""
    outcomes = list(self._threads.map(self._one, jobs))
    reasons = collections.Counter(o.reason for job in outcomes for o in job if o.reason)
    calls = sum(map(len, outcomes))
    for reason, n in reasons.most_common(3):
      logging.warning('%d of %d rewards lost: %s', n, calls, reason)
    return outcomes

  def _one(self, job: Job) -> list[Outcome]:
    worker = self._idle.get()
    try:
      return worker.each(*job)
    finally:
      self._idle.put(worker)

  def close(self) -> None:
    """Ends the processes."""
    self._threads.shutdown()
    for worker in self._workers:
      worker.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()
