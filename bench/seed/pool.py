"""Many pairs over several processes, each under a time and a memory limit that hold from outside.

A worker that is late is killed and replaced; a worker that dies is replaced and its pair tried once more.
Results
come in the order of the pairs and do not depend on the number of processes.
"""

import collections
import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.seed.result import Score, Settings

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 120
_STARTS = 3
_TRIES = 2


@dataclasses.dataclass
class _Job:
  index: int
  pair: tuple[str, ...]
  tries: int = 0
  # The score to keep if the symbolic test of an undecided pair comes to nothing.
  fallback: Score | None = None


class _Worker:
  """A process, the job it holds and the bytes on their way to and from it."""

  def __init__(self, memory: int):
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get('PYTHONPATH'))))
    self.process = subprocess.Popen(
      [sys.executable, '-P', '-m', 'bench.seed.worker', str(memory)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': path},
      bufsize=0,
    )
    for pipe in (self.process.stdin, self.process.stdout):
      os.set_blocking(pipe.fileno(), False)
    self.job: _Job | None = None
    self.ready = False
    self.outgoing = b''
    self.incoming = b''
    self.start = time.monotonic()

  def send(self, job: _Job, settings: Settings) -> None:
    message = {'pair': job.pair[:3], 'settings': _item_settings(job, settings), 'symbolic': job.fallback is not None}
    self.job = job
    self.start = time.monotonic()
    self.outgoing = json.dumps(message).encode() + b'\n'

  def flush(self) -> None:
    self.outgoing = self.outgoing[self.process.stdin.write(self.outgoing) or 0 :]

  def read(self) -> dict | None:
    """A complete answer, if there is one. Raises EOFError when the process is gone."""
    data = self.process.stdout.read(1 << 16)
    if data == b'':
      raise EOFError
    self.incoming += data or b''
    if not self.incoming.endswith(b'\n'):
      return None
    answer = json.loads(self.incoming)
    self.incoming = b''
    return answer

  def close(self) -> None:
    self.process.kill()
    self.process.wait()
    self.process.stdin.close()
    self.process.stdout.close()


def _item_settings(job: _Job, settings: Settings) -> dict:
  symbols = job.pair[3] if len(job.pair) > 3 else settings.symbols
  return dataclasses.asdict(settings) | {'symbols': symbols}


class Pool:
  """Warm scoring processes. Use as a context manager, or call `close`.

  processes: how many; limit: seconds for one pair; memory: bytes of address space for one process.
  """

  def __init__(self, processes: int | None = None, *, limit: float = 20.0, memory: int = 1 << 30):
    self.processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if self.processes < 1 or not limit > 0 or memory < 1 << 28:
      raise ValueError(
        f'processes={processes}, limit={limit}, memory={memory}: '
        'expected at least 1 process, a positive limit and 256 MiB'
      )
    self.limit = limit
    self.memory = memory
    self._workers: list[_Worker] = []
    self._failed_starts = 0

  def __enter__(self) -> 'Pool':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    while self._workers:
      self._workers.pop().close()

  def score_many(
    self,
    pairs: Iterable[tuple[str, ...]],
    *,
    on_result: Callable[[int, Score], None] | None = None,
    settings: Settings | None = None,
    **options,
  ) -> list[Score]:
    """Scores of (reference, prediction, kind) or (reference, prediction, kind, symbols), in the same order.

    on_result is called with each index and score as soon as it is known, in any order. options: see
    `Settings`.
    """
    settings = settings or Settings(**options)
    pending = collections.deque(_Job(k, tuple(p)) for k, p in enumerate(pairs))
    scores: list[Score | None] = [None] * len(pending)
    while pending or any(w.job for w in self._workers):
      self._staff(pending, settings)
      for worker in self._wait():
        for job, score in self._collect(worker, pending, settings):
          scores[job.index] = score
          if on_result:
            on_result(job.index, score)
    return scores

  def _staff(self, pending, settings) -> None:
    """Starts missing workers and gives every idle one a job."""
    busy = sum(w.job is not None for w in self._workers)
    while len(self._workers) < min(self.processes, len(pending) + busy):
      self._workers.append(_Worker(self.memory))
    for worker in self._workers:
      if worker.ready and not worker.job and pending:
        worker.send(pending.popleft(), settings)

  def _wait(self) -> list[_Worker]:
    """Workers with something to say, and those that are late."""
    with selectors.DefaultSelector() as selector:
      for worker in self._workers:
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        if worker.outgoing:
          selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
      now = time.monotonic()
      due = min((self._deadline(w) for w in self._workers if w.job or not w.ready), default=now)
      events = selector.select(max(0.0, due - now) + 0.001)
    for key, mask in events:
      if mask & selectors.EVENT_WRITE:
        try:
          key.data.flush()
        except BrokenPipeError:
          key.data.outgoing = b''
    readable = {id(key.data) for key, mask in events if mask & selectors.EVENT_READ}
    now = time.monotonic()
    late = lambda w: (w.job or not w.ready) and now > self._deadline(w)
    return [w for w in self._workers if id(w) in readable or late(w)]

  def _deadline(self, worker: _Worker) -> float:
    return worker.start + (self.limit if worker.ready else _START_SECONDS)

  def _collect(self, worker: _Worker, pending, settings) -> list[tuple[_Job, Score]]:
    """The finished job of a worker, if it is finished, killed or lost for good."""
    try:
      answer = worker.read()
    except EOFError:
      return self._lost(worker, pending, settings)
    if answer is None:
      if time.monotonic() <= self._deadline(worker):
        return []
      return self._killed(worker, settings)
    if 'ready' in answer:
      worker.ready = True
      self._failed_starts = 0
      return []
    job = worker.job
    worker.job = None
    score = self._read_score(job, answer, settings)
    if 'undecided' in score.flags and job.fallback is None:
      pending.appendleft(dataclasses.replace(job, fallback=score))
      return []
    return [(job, score)]

  def _read_score(self, job: _Job, answer: dict, settings: Settings) -> Score:
    if 'score' in answer:
      fields = answer['score']
      return Score(**fields | {'flags': tuple(fields['flags'])})
    if job.fallback:
      return job.fallback
    if 'error' in answer:
      warnings.warn(f'the scorer failed on pair {job.index}: {answer["error"]}', stacklevel=2)
      return self._zero(settings, 'unsupported', 0.0, ('internal_error',))
    return self._zero(settings, 'too_large', 0.0, ('memory',))

  def _zero(self, settings, status, seconds, flags=()) -> Score:
    return Score(0.0, status, seconds=seconds, mode=settings.mode, tiers=settings.tiers, flags=flags)

  def _killed(self, worker, settings) -> list[tuple[_Job, Score]]:
    self._dismiss(worker)
    if not worker.ready:
      raise RuntimeError(f'a scoring process did not start within {_START_SECONDS} s')
    return [(worker.job, worker.job.fallback or self._zero(settings, 'timeout', self.limit))]

  def _lost(self, worker, pending, settings) -> list[tuple[_Job, Score]]:
    """A process that ended by itself or by another's hand: its pair is tried again before it counts as
    killed."""
    self._dismiss(worker)
    if not worker.ready:
      self._failed_starts += 1
      if self._failed_starts >= _STARTS:
        raise RuntimeError(f'scoring processes do not start (exit status {worker.process.returncode})')
    if worker.job is None:
      return []
    job = dataclasses.replace(worker.job, tries=worker.job.tries + 1)
    if job.tries < _TRIES:
      pending.appendleft(job)
      return []
    return [(job, job.fallback or self._zero(settings, 'timeout', time.monotonic() - worker.start))]

  def _dismiss(self, worker) -> None:
    worker.close()
    self._workers.remove(worker)


def score_many(
  pairs: Iterable[tuple[str, ...]],
  *,
  processes: int | None = None,
  limit: float = 20.0,
  memory: int = 1 << 30,
  on_result: Callable[[int, Score], None] | None = None,
  settings: Settings | None = None,
  **options,
) -> list[Score]:
  """`Pool.score_many` with a temporary pool. processes: one for each usable core by default."""
  with Pool(processes, limit=limit, memory=memory) as pool:
    return pool.score_many(pairs, on_result=on_result, settings=settings, **options)
