"""Rewards that may raise or never return: each costs its own sample, never the run."""

import collections
import concurrent.futures
import dataclasses
import math
import queue
from collections.abc import Callable, Iterable

import numpy as np
from absl import logging

from rl.rewards.limited import Late, Limited


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Of N samples: values float32 [N]; valid bool [N], false where there is none; why each of those was lost."""

  values: np.ndarray
  valid: np.ndarray
  lost: dict[int, str]


class Guard:
  """`Guard(function)(calls)`: the function's value for each tuple of arguments, from processes under a time limit.

  function: importable by name, of picklable arguments, returning a finite number. seconds: wall-clock limit of a
  call. workers: processes. otherwise: the reward of a sample that is lost; None leaves the sample out, for the
  `valid` of `rl.advantages`. What a policy says can make a checker fail, so with None it may learn to, and a failing
  one is best counted as wrong: leave out what is no fault of the answer, such as a judge that is down.
  """

  def __init__(
    self, function: Callable[..., float], *, seconds: float = 10.0, workers: int = 2, otherwise: float | None = None
  ):
    if seconds <= 0 or workers < 1:
      raise ValueError(f'seconds={seconds}, workers={workers}: expected a positive limit and at least 1 process')
    self._name = getattr(function, '__qualname__', repr(function))
    self._otherwise = otherwise
    self._idle = queue.SimpleQueue()
    self._workers = [Limited(function, seconds) for _ in range(workers)]
    for worker in self._workers:
      self._idle.put(worker)
    self._threads = concurrent.futures.ThreadPoolExecutor(workers)

  def __call__(self, calls: Iterable[tuple]) -> Rewards:
    """Rewards in the order of the calls. What is lost is logged, by reason."""
    results = list(self._threads.map(self._one, calls))
    lost = {i: reason for i, (_, reason) in enumerate(results) if reason}
    values = np.array([value for value, _ in results], np.float32)
    valid = np.array([not reason or self._otherwise is not None for _, reason in results], bool)
    for reason, n in collections.Counter(lost.values()).most_common(3):
      logging.warning('%s: %d of %d rewards lost: %s', self._name, n, len(results), reason)
    return Rewards(values, valid, lost)

  def _one(self, args: tuple) -> tuple[float, str]:
    """(reward, '' or why it was lost)."""
    worker = self._idle.get()
    try:
      value = worker(*args)
    except (Late, RuntimeError) as error:
      return self._otherwise or 0.0, str(error)
    finally:
      self._idle.put(worker)
    number = isinstance(value, (bool, int, float, np.number)) and math.isfinite(value)
    return (float(value), '') if number else (self._otherwise or 0.0, f'not a finite number: {value!r:.80}')

  def close(self) -> None:
    """Ends the processes."""
    self._threads.shutdown()
    for worker in self._workers:
      worker.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()
