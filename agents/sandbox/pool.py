"""The pool: seed, zygote and slots, seen from the process that has code to run. Thread-safe."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence

from agents.sandbox import wire
from agents.sandbox.limits import HarnessError, Limits, Result
from agents.sandbox.profiles import PROFILES

_GRACE = 5.0  # seconds past the wall limit before a slot is given up
_START = 60.0  # seconds a zygote may take to load its profile
_THREADS = dict.fromkeys(('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
_ENVIRONMENT = {
  'PATH': '/usr/bin:/bin',
  'HOME': '/tmp',
  'TMPDIR': '/tmp',
  'USER': 'sandbox',
  'LANG': 'C.UTF-8',
  'PYTHONHASHSEED': '0',
  'PYTHONDONTWRITEBYTECODE': '1',
  'MALLOC_ARENA_MAX': '1',
  **_THREADS,
}


class _Slot:
  """Our end of one slot."""

  def __init__(self, sock: socket.socket, pidfd: int):
    self.sock, self.pidfd = sock, pidfd

  def ask(self, parts: list[bytes], seconds: float) -> list[bytes]:
    """One request and its answer. Raises OSError when the slot is gone or silent."""
    self.sock.settimeout(seconds)
    wire.send(self.sock, parts[0])
    wire.send(self.sock, *parts[1:])
    return wire.receive(self.sock, seconds)

  def close(self) -> None:
    """Ends the slot and everything in it."""
    self.sock.close()
    with contextlib.suppress(ProcessLookupError):
      signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
    os.close(self.pidfd)


class _Seed:
  """A launched seed with its zygote. A zygote that is gone is replaced by another fork, without new imports."""

  def __init__(self, backend: str, profile: str, wrap: Sequence[str]):
    self.folder = tempfile.mkdtemp(prefix='sandbox-')
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    base = str(pathlib.Path(__file__).resolve().parents[2])
    code = (
      f'import sys; sys.path.insert(0, {base!r}); from agents.sandbox import zygote; '
      f'sys.path.pop(0); zygote.main({theirs.fileno()}, {backend!r}, {profile!r})'
    )
    keep = {k: os.environ[k] for k in ('LD_LIBRARY_PATH',) if k in os.environ}
    self.process = subprocess.Popen(
      [*wrap, sys.executable, '-s', '-P', '-c', code],
      pass_fds=[theirs.fileno()],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      cwd='/',
      start_new_session=True,
      env=_ENVIRONMENT | {'TMPDIR': self.folder} | keep,
    )
    theirs.close()
    self.control, self.zygote = ours, None
    try:
      _hear_ready(self.control, _START)
      self.fork_zygote()
    except OSError as error:
      self.close()
      raise HarnessError(f'the zygote did not start: {error}') from error

  def slot(self) -> _Slot:
    """Forks a slot. Raises OSError when it cannot, and when zygote and seed are gone."""
    try:
      return self._slot()
    except OSError:
      self.fork_zygote()
    return self._slot()

  def fork_zygote(self) -> None:
    """Has the seed fork a zygote in the place of the last one."""
    if self.zygote:
      self.zygote.close()
    self.zygote, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
      socket.send_fds(self.control, [b'zygote'], [theirs.fileno()])
    _hear_ready(self.zygote, _GRACE)

  def _slot(self) -> _Slot:
    ours, theirs = socket.socketpair()
    try:
      self.zygote.settimeout(_GRACE)
      socket.send_fds(self.zygote, [b'slot'], [theirs.fileno()])
      message, descriptors, _, _ = socket.recv_fds(self.zygote, 4096, 1)
      _expect(b'slot', message)
    except OSError:
      ours.close()
      raise
    finally:
      theirs.close()
    return _Slot(ours, descriptors[0])

  def close(self) -> None:
    """Ends the seed and everything below."""
    self.control.close()
    if self.zygote:
      self.zygote.close()
    self.process.kill()
    self.process.wait()
    shutil.rmtree(self.folder, ignore_errors=True)


def _hear_ready(sock: socket.socket, seconds: float) -> None:
  sock.settimeout(seconds)
  _expect(b'ready', sock.recv(1 << 16))


def _expect(wanted: bytes, message: bytes) -> None:
  """Raises Closed with what was said instead."""
  if message != wanted:
    raise wire.Closed(message.decode('utf-8', 'replace').strip() or 'it ended')


class _Turns:
  """A semaphore that serves in the order of asking (`threading.Semaphore` may starve a waiter)."""

  def __init__(self, free: int):
    self._free, self._lock = free, threading.Lock()
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
        self._waiting.popleft().release()  # handed over, never free in between
      else:
        self._free += 1


class Pool:
  """Warm, isolated Python: `Pool(4).run('1 + 1').stdout == '2\\n'`.

  workers: calls at once. profile: what is preloaded (`PROFILES`). backend: 'namespaces', 'landlock' or 'rlimits'; None
  takes the first of the former two that proves itself here. sessions: kept states at once. wrap: a command put before
  the zygote's, such as a bubblewrap call. `backend` and `report` say what was chosen and what was found.
  Raises ValueError on an impossible argument, HarnessError when no backend holds.
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
    from agents.sandbox import selftest

    for name, value in (('workers', workers), ('sessions', sessions)):
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r}: expected a positive int')
    if profile not in PROFILES:
      raise ValueError(f'profile={profile!r}: expected one of {sorted(PROFILES)}')
    self.limits, self.profile, self.workers = limits or Limits(), profile, workers
    self._wrap, self._lock, self._closed = tuple(wrap), threading.Lock(), False
    self._running = _Turns(workers)
    self._sessions = threading.Semaphore(sessions)
    self.backend, self.report, self._seed = selftest.choose(backend, self._launch)
    self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()

  def run(
    self,
    code: str,
    stdin: str | bytes = '',
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits | None = None,
  ) -> Result:
    """Runs code from nothing in a process of its own. files: relative path → content, laid in the working folder.

    Whatever the code does is told in the result, and so is a failure of the sandbox (status 'harness').
    Raises ValueError on arguments that could never run.
    """
    limits = limits or self.limits
    parts = request(code, stdin, files, limits, session=False)
    asked = time.monotonic()
    with self._running:
      queued = time.monotonic() - asked
      try:
        slot = self._take()
      except HarnessError as error:
        return Result('harness', reason=str(error), queued=queued)
      result, alive = exchange(slot, parts, limits, queued)
      if alive and not self._closed:
        self._idle.put(slot)
      else:
        slot.close()
    return result

  def session(self) -> 'Session':
    """A kept state: what one cell defines, the next one finds. Close it, or use it in a `with`.

    Raises HarnessError when `sessions` are open already.
    """
    if not self._sessions.acquire(blocking=False):
      raise HarnessError('as many sessions as this pool may keep are open')
    return Session(self)

  def renew(self) -> None:
    """Has a new zygote forked, as must be in a process that inherited the pool from one that did not go on using it.

    Raises HarnessError when the seed is gone and cannot be launched again.
    """
    with self._lock:
      try:
        self._seed.fork_zygote()
      except OSError:
        self._seed.close()
        self._seed = self._launch(self.backend)

  def close(self) -> None:
    """Ends every slot, the zygote and the seed."""
    self._closed = True
    while True:
      try:
        self._idle.get_nowait().close()
      except queue.Empty:
        break
    with self._lock:
      self._seed.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _launch(self, backend: str) -> _Seed:
    return _Seed(backend, self.profile, self._wrap)

  def _take(self) -> _Slot:
    """An idle slot that lives, or a new one."""
    while True:
      try:
        slot = self._idle.get_nowait()
      except queue.Empty:
        return self._new()
      if not _gone(slot.sock):
        return slot
      slot.close()

  def _new(self) -> _Slot:
    """Forks a slot; launches the seed again if it is gone."""
    with self._lock:
      if self._closed:
        raise HarnessError('the pool is closed')
      try:
        return self._seed.slot()
      except OSError:
        self._seed.close()
        self._seed = self._launch(self.backend)
      try:
        return self._seed.slot()
      except OSError as error:
        raise HarnessError(f'no slot: {error}') from error


class Session:
  """The state of one trajectory. Cells run one after another; a lost process is replaced by an empty one (`fresh`)."""

  def __init__(self, pool: Pool):
    self._pool, self._slot, self._lock, self._open = pool, None, threading.Lock(), True

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


def request(
  code: str, stdin: str | bytes, files: Mapping[str, str | bytes] | None, limits: Limits, *, session: bool
) -> list[bytes]:
  """What asks a slot for a run: limits, then names, code, input and contents. Raises ValueError on the impossible."""
  if not isinstance(code, str):
    raise ValueError(f'code is {type(code).__name__}, expected str')
  contents = {name: _bytes(f'files[{name!r}]', content) for name, content in (files or {}).items()}
  for name in contents:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or not path.parts or '\0' in name:
      raise ValueError(f'file name {name!r}: expected a relative path that stays inside')
  size = sum(map(len, contents.values()))
  if size > limits.disk or len(contents) > limits.inodes // 4:
    raise ValueError(f'{len(contents)} files of {size} bytes: expected at most {limits.inodes // 4} of {limits.disk}')
  meta = {'limits': dataclasses.asdict(limits), 'session': session}
  parts = [
    json.dumps(meta).encode(),
    json.dumps(list(contents)).encode(),
    code.encode('utf-8', 'surrogatepass'),
    _bytes('stdin', stdin),
    *contents.values(),
  ]
  if sum(map(len, parts)) > wire.LARGEST // 2:
    raise ValueError(f'{sum(map(len, parts))} bytes of code and input: expected at most {wire.LARGEST // 2}')
  return parts


def exchange(slot: _Slot, parts: list[bytes], limits: Limits, queued: float) -> tuple[Result, bool]:
  """Asks a slot; the result, and whether the slot can be used again."""
  try:
    meta, *streams = slot.ask(parts, limits.wall + _GRACE)
  except OSError as error:  # Closed and TimeoutError are OSErrors
    return Result('harness', reason=f'the worker was lost: {error}', queued=queued), False
  told = json.loads(meta)
  if told['status'] == 'harness':
    return Result(queued=queued, **told), False
  told['omitted'] = tuple(told['omitted'])
  stdout, stderr = (text(streams[3 * i], streams[3 * i + 1] + streams[3 * i + 2], told['omitted'][i]) for i in (0, 1))
  return Result(stdout=stdout, stderr=stderr, queued=queued, **told), True


def text(head: bytes, tail: bytes, omitted: int) -> str:
  """A stream as text, with a marker where something was left out."""
  if not omitted:
    return (head + tail).decode('utf-8', 'replace')
  marker = f'\n[... {omitted} bytes left out ...]\n'
  return head.decode('utf-8', 'replace') + marker + tail.decode('utf-8', 'replace')


def _bytes(name: str, value: str | bytes) -> bytes:
  if isinstance(value, str):
    return value.encode('utf-8', 'surrogatepass')
  if isinstance(value, bytes):
    return value
  raise ValueError(f'{name} is {type(value).__name__}, expected str or bytes')


def _gone(sock: socket.socket) -> bool:
  """Whether the other end of an idle connection is closed."""
  sock.setblocking(False)
  try:
    return sock.recv(1, socket.MSG_PEEK) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True
