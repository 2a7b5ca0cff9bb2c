"""The pool: warm slots for single calls, and sessions that keep their state. Thread-safe."""

import collections
import functools
import logging
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence

from agents.sandbox.limits import HarnessError, Limits, Result
from agents.sandbox.profiles import PROFILES
from agents.sandbox.seed import Seed, Slot
from agents.sandbox.wire import exchange, request


class _Turns:
  """A first-in-first-out semaphore (`threading.Semaphore` may starve a waiter)."""

  def __init__(self, free: int):
    self._free = free
    self._lock = threading.Lock()
    self._waiting: collections.deque[threading.Lock] = collections.deque()

  def __enter__(self):
    with self._lock:
      if self._free:
        self._free -= 1
        return
      gate = threading.Lock()
      gate.acquire()
      self._waiting.append(gate)
    gate.acquire()

  def __exit__(self, *_):
    with self._lock:
      if self._waiting:
        self._waiting.popleft().release()  # passed on directly: it is never free in between
      else:
        self._free += 1


class Caller:
  """A caller that waits for a call of `Pool.run` and may leave; then the call ends, with status 'error'."""

  def __init__(self):
    self._lock = threading.Lock()
    self._left = False
    self._slot: Slot | None = None

  def leave(self) -> None:
    """Ends the call, at once or as soon as it starts. From any thread."""
    with self._lock:
      self._left = True
      if self._slot:
        self._slot.abandon()

  def waits_for(self, slot: Slot | None) -> None:
    """Notes the slot that runs the call, or that none does any more."""
    with self._lock:
      self._slot = slot
      if slot and self._left:
        slot.abandon()


class Pool:
  """Warm, isolated Python: `Pool(4).run('1 + 1').stdout == '2\\n'`.

  workers: calls at once. profile: the preloaded modules (`PROFILES`). backend: 'namespaces', 'landlock' or 'rlimits';
  None takes the first of the former two that passes the self-test on this machine. sessions: open sessions at once.
  wrap: a command that prefixes the seed's, such as a bubblewrap call. The attribute `backend` is the one chosen,
  `report` the results of the self-tests. Raises ValueError for a bad argument, HarnessError if no backend passes.
  """

  def __init__(
    self,
    workers: int = 2,
    limits: Limits | None = None,
    *,
    profile: str = 'sympy',
    backend: str | None = None,
    sessions: int = 64,
    wrap: Sequence[str] = (),
  ):
    from agents.sandbox.isolation import selftest

    for name, value in (('workers', workers), ('sessions', sessions)):
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r}: expected a positive int')
    if profile not in PROFILES:
      raise ValueError(f'profile={profile!r}: expected one of {sorted(PROFILES)}')
    self.limits = limits or Limits()
    self.profile = profile
    self.workers = workers
    self._wrap = tuple(wrap)
    self._lock = threading.Lock()
    self._closed = False
    self._running = _Turns(workers)
    self._sessions = threading.Semaphore(sessions)
    self.backend, self.report, self._seed = selftest.choose(backend, self._launch)
    self._idle: queue.LifoQueue[Slot] = queue.LifoQueue()

  def run(
    self,
    code: str,
    stdin: str | bytes = '',
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
    *,
    caller: Caller | None = None,
  ) -> Result:
    """Runs code in a fresh process. files: relative path → content, written to the working folder.

    caller: its `leave` ends the call.

    The result reports everything that the code does, and failures of the sandbox (status 'harness').
    Raises ValueError for arguments that cannot run.
    """
    limits = limits or self.limits
    caller = caller or Caller()
    parts = request(code, stdin, files, limits, session=False)
    asked = time.monotonic()
    with self._running:
      queued = time.monotonic() - asked
      try:
        slot = self._take()
      except HarnessError as error:
        return Result('harness', reason=str(error), queued=queued)
      result, alive = exchange(slot, parts, limits, queued, sent=functools.partial(caller.waits_for, slot))
      caller.waits_for(None)
      if alive and not self._closed:
        self._idle.put(slot)
      else:
        slot.close()
    return result

  def session(self) -> 'Session':
    """A session: later cells see what earlier ones define. Close it, or use it in a `with`.

    Raises HarnessError if the pool's limit of sessions is open.
    """
    if not self._sessions.acquire(blocking=False):
      raise HarnessError('the pool has its limit of sessions open')
    return Session(self)

  def renew(self) -> None:
    """Forks a new zygote. Needed in a process that inherits the pool from one that no longer uses it.

    Raises HarnessError if the seed is lost and cannot be launched again.
    """
    with self._lock:
      try:
        self._seed.fork_zygote()
      except OSError:
        self._relaunch()

  def close(self) -> None:
    """Ends every slot, the zygote and the seed. Logs what could not be removed of their files."""
    self._closed = True
    while True:
      try:
        self._idle.get_nowait().close()
      except queue.Empty:
        break
    with self._lock:
      self._close_seed()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _launch(self, backend: str) -> Seed:
    return Seed(backend, self.profile, self._wrap)

  def _relaunch(self) -> None:
    """Replaces a lost seed."""
    self._close_seed()
    self._seed = self._launch(self.backend)

  def _close_seed(self) -> None:
    for problem in self._seed.close():
      logging.getLogger(__name__).warning('not removed: %s', problem)

  def _take(self) -> Slot:
    """An idle slot that is alive, or a new one."""
    while True:
      try:
        slot = self._idle.get_nowait()
      except queue.Empty:
        return self._new()
      if not _gone(slot.sock):
        return slot
      slot.close()

  def _new(self) -> Slot:
    """Forks a slot; launches the seed again if it is lost."""
    with self._lock:
      if self._closed:
        raise HarnessError('the pool is closed')
      try:
        return self._seed.slot()
      except OSError:
        self._relaunch()
      try:
        return self._seed.slot()
      except OSError as error:
        raise HarnessError(f'no slot: {error}') from error


class Session:
  """The state of one trajectory. Cells run one at a time; a lost process is replaced by an empty one (`fresh`)."""

  def __init__(self, pool: Pool):
    self._pool = pool
    self._slot = None
    self._lock = threading.Lock()
    self._open = True

  def run(
    self,
    code: str,
    stdin: str | bytes = '',
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
  ) -> Result:
    """Runs the next cell; memory, task and disk limits are those of the session's first cell."""
    limits = limits or self._pool.limits
    parts = request(code, stdin, files, limits, session=True)
    asked = time.monotonic()
    with self._lock, self._pool._running:
      if not self._open:
        raise ValueError('the session is closed')
      queued = time.monotonic() - asked
      try:
        self._slot = self._slot or self._pool._new()
      except HarnessError as error:
        return Result('harness', reason=str(error), queued=queued)
      result, alive = exchange(self._slot, parts, limits, queued)
      if not alive:
        self._slot.close()
        self._slot = None
      return result

  def close(self) -> None:
    """Drops the state."""
    with self._lock:
      if self._open:
        self._open = False
        self._pool._sessions.release()
        if self._slot:
          self._slot.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _gone(sock: socket.socket) -> bool:
  """Whether the other end of an idle connection is closed."""
  sock.setblocking(False)
  try:
    return sock.recv(1, socket.MSG_PEEK) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True
