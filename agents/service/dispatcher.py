"""Calls of many trajectories onto one pool: fair, bounded, counted. Asyncio; one dispatcher to an event loop.

Trajectories share the workers' time equally, however many calls each has queued and however long they are. A full
queue holds its callers back. Only a failure of the sandbox is retried, never one of the code.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Hashable, Mapping

from agents.sandbox import Caller, HarnessError, Limits, Pool, Result, Session
from agents.service.metrics import Metrics
from agents.service.turns import Turns

_PAUSE = 0.05  # seconds before the first retry, doubled for each further one


class Full(RuntimeError):
  """The queue is full and the caller did not want to wait."""


@dataclasses.dataclass
class _Call:
  """A call that waits or runs."""

  arguments: tuple
  keep: bool
  future: asyncio.Future
  asked: float
  caller: Caller = dataclasses.field(default_factory=Caller)


@dataclasses.dataclass
class _Trajectory:
  """What is known of a trajectory: its queue, its kept state, and whether a call that uses the state is running."""

  waiting: collections.deque = dataclasses.field(default_factory=collections.deque)
  session: Session | None = None
  busy: bool = False
  running: int = 0

  idle = property(lambda self: not self.waiting and not self.running)
  # Whether its next call can start: one that uses the state waits while another does.
  ready = property(lambda self: not (self.busy and self.waiting[0].keep))


class Dispatcher:
  """Runs code for trajectories on a pool: `await dispatcher.run(trajectory, code)`.

  queue: calls that may wait; beyond it each trajectory may still have one, so that a greedy one cannot keep the others
  out. retries: further attempts after a harness fault. Closing the dispatcher closes the pool.
  """

  def __init__(self, pool: Pool, *, queue: int = 4096, retries: int = 2):
    if queue < 1 or retries < 0:
      raise ValueError(f'queue={queue}, retries={retries}: expected queue ≥ 1 and retries ≥ 0')
    self.pool = pool
    self.queue = queue
    self.retries = retries
    self.metrics = Metrics(pool.workers)
    self._threads = concurrent.futures.ThreadPoolExecutor(pool.workers, thread_name_prefix='sandbox')
    self._trajectories: collections.OrderedDict[Hashable, _Trajectory] = collections.OrderedDict()
    self._turns = Turns()
    self._waiting = self._running = 0
    self._admission = asyncio.Condition()
    self._tasks: set[asyncio.Task] = set()

  async def run(
    self,
    trajectory: Hashable,
    code: str,
    *,
    stdin: str | bytes = '',
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
    keep: bool = False,
    wait: bool = True,
  ) -> Result:
    """Runs code for a trajectory. keep: in the state its earlier `keep` calls left, one after another.

    A kept state can be lost (a limit ended its process, or it was evicted): then `Result.fresh` is true again.
    Cancelled, it ends the running code; with `keep` it does not, since that would cost the state.
    Raises Full when the queue is full and `wait` is false, ValueError on arguments that could never run.
    """
    asked = time.monotonic()
    async with self._admission:
      if not wait and not self._admits(trajectory):
        raise Full(f'{self._waiting} calls are waiting')
      await self._admission.wait_for(lambda: self._admits(trajectory))
      call = _Call((code, stdin, files, limits), keep, asyncio.get_running_loop().create_future(), asked)
      line = self._trajectories.setdefault(trajectory, _Trajectory())
      if not line.waiting:
        self._turns.wait(trajectory)
      line.waiting.append(call)
      self._waiting += 1
    self._pump()
    try:
      return await call.future
    except asyncio.CancelledError:
      call.caller.leave()
      raise

  async def forget(self, trajectory: Hashable) -> None:
    """Drops the trajectory's kept state, once its running call is over."""
    while (line := self._trajectories.get(trajectory)) and line.busy:
      await asyncio.sleep(0.01)
    if line and line.session:
      line.session.close()
      line.session = None
    self._tidy(trajectory)

  async def close(self) -> None:
    """Waits for running calls, fails waiting ones, closes the pool."""
    for line in self._trajectories.values():
      for call in line.waiting:
        if not call.future.done():
          call.future.set_result(Result('harness', reason='the dispatcher was closed'))
      line.waiting.clear()
    self._turns.clear()
    if self._tasks:
      await asyncio.wait(self._tasks)
    for line in self._trajectories.values():
      if line.session:
        line.session.close()
    self._threads.shutdown()
    self.pool.close()

  def _admits(self, trajectory: Hashable) -> bool:
    """Whether a call may join the queue: while it is not full, or as the only waiting call of its trajectory."""
    line = self._trajectories.get(trajectory)
    return self._waiting < self.queue or line is None or not line.waiting

  def _pump(self) -> None:
    """Starts calls while there are free workers."""
    while self._running < self.pool.workers and (turn := self._next()):
      self._running += 1
      task = asyncio.ensure_future(self._serve(*turn))
      self._tasks.add(task)
      task.add_done_callback(self._tasks.discard)

  def _next(self) -> tuple[Hashable, _Trajectory, _Call] | None:
    """The next call that can start now, or None."""
    name = self._turns.begin(lambda name: self._trajectories[name].ready)
    if name is None:
      return None
    line = self._trajectories[name]
    call = line.waiting.popleft()
    if line.waiting:
      self._turns.wait(name)
    line.busy |= call.keep
    line.running += 1
    return name, line, call

  async def _serve(self, name: Hashable, line: _Trajectory, call: _Call) -> None:
    """Runs one call to its answer."""
    try:
      async with self._admission:
        self._waiting -= 1
        self._admission.notify()
      if call.future.done():  # its caller gave up
        return
      queued = time.monotonic() - call.asked
      result = await self._attempt(name, line, call)
      result = dataclasses.replace(result, queued=queued)
      if call.future.done():
        self.metrics.left += 1
        return
      self.metrics.add(result)
      call.future.set_result(result)
    except Exception as error:  # such as arguments that could never run: the caller's to see
      if not call.future.done():
        call.future.set_exception(error)
    finally:
      self._running -= 1
      line.running -= 1
      self._turns.end(name)
      if call.keep:
        line.busy = False
        self._trajectories.move_to_end(name)
      self._tidy(name)
      self._pump()

  async def _attempt(self, name: Hashable, line: _Trajectory, call: _Call) -> Result:
    """The first result that is not a harness fault, or the last of them."""
    loop = asyncio.get_running_loop()
    for attempt in range(self.retries + 1):
      if attempt:
        self.metrics.retries += 1
        await asyncio.sleep(_PAUSE * 2 ** (attempt - 1))
      kept = line.session is not None
      try:
        run = self._session(line).run if call.keep else functools.partial(self.pool.run, caller=call.caller)
      except HarnessError as error:
        return Result('harness', reason=str(error))
      result = await loop.run_in_executor(self._threads, run, *call.arguments)
      if result.status != 'harness' or (call.keep and kept) or call.future.done():
        return result  # session state cannot be recovered by retrying
    return result

  def _session(self, line: _Trajectory) -> Session:
    """The trajectory's session; opening one may cost the longest unused one its state."""
    while line.session is None:
      try:
        line.session = self.pool.session()
      except HarnessError:
        idle = next((t for t in self._trajectories.values() if t.session and not t.busy), None)
        if idle is None:
          raise
        idle.session.close()
        idle.session = None
        self.metrics.evicted += 1
    return line.session

  def _tidy(self, name: Hashable) -> None:
    """Forgets a trajectory with no calls and no session."""
    line = self._trajectories.get(name)
    if line and line.idle and line.session is None:
      del self._trajectories[name]

  def figures(self) -> dict:
    """Counts, rates and latencies since the start, and the present load."""
    return self.metrics.figures() | {
      'waiting': self._waiting,
      'running': self._running,
      'sessions': sum(t.session is not None for t in self._trajectories.values()),
    }
