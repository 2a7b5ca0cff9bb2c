"""A slot: forks one call at a time, watches it, and tells what came of it.

The code never holds a channel on which a result is told. The slot itself sees the exit, measures the time and reads
the output from pipes, so there is nothing to forge. Only a session's process says "this cell is done", one byte whose
forgery cuts short nobody's result but its own.
"""

import atexit
import contextlib
import dataclasses
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

from agents.sandbox import runner, wire
from agents.sandbox.backends import Plain
from agents.sandbox.family import Family
from agents.sandbox.limits import Limits

_TICK = 0.02  # seconds between two looks at a family
_SESSION, _READY = 3, 4  # descriptors: a session's cells; the end of the set-up


class Capture:
  """The head and the tail of a stream, and its length.

  Kept outside the heap, in pages that a fork leaves out: no call can find in its memory what an earlier one printed.
  """

  def __init__(self, keep: int):
    self.half, self.total = max(keep // 2, 1), 0
    memory = mmap.mmap(-1, 2 * self.half, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    self.head, self.ring = memoryview(memory)[: self.half], memoryview(memory)[self.half :]

  def read(self, fd: int) -> bool:
    """Reads what is there, at most a few pages; False at the end of the stream."""
    at = (self.total - self.half) % self.half
    room = [self.head[self.total :]] if self.total < self.half else [self.ring[at:], self.ring[:at]]
    try:
      count = os.readv(fd, room)
    except BlockingIOError:
      return True
    self.total += count
    return count > 0

  omitted = property(lambda self: max(0, self.total - 2 * self.half))

  def parts(self) -> tuple[memoryview, memoryview, memoryview]:
    """The head, and the tail in two pieces."""
    at = (self.total - self.half) % self.half if self.omitted else 0
    length = min(max(self.total - self.half, 0), self.half)
    return self.head[: self.total], self.ring[at:length], self.ring[:at]


class Call:
  """A forked process with its pipes."""

  def __init__(self, pid: int, out: int, err: int, channel: socket.socket | None, scratch: str):
    self.pid, self.pidfd = pid, os.pidfd_open(pid)
    self.pipes, self.channel, self.scratch = {out: None, err: None}, channel, scratch

  def close(self) -> None:
    for fd in (self.pidfd, *self.pipes):
      os.close(fd)
    if self.channel:
      self.channel.close()


class Slot:
  """The supervisor of one slot; serves requests on `sock` until it is closed."""

  def __init__(self, sock: socket.socket, backend: Plain, family: Family):
    self.sock, self.backend, self.family = sock, backend, family
    self.space = family.space()
    self.session: Call | None = None

  def serve(self) -> None:
    """Answers requests; returns when the other end is gone."""
    try:
      while True:
        (meta,) = wire.receive(self.sock)
        meta = json.loads(meta)
        limits = Limits(**meta['limits'])
        (self._cell if meta['session'] else self._once)(limits)
    except OSError as error:  # if the other end is there, it hears of it, and drops this slot
      with contextlib.suppress(OSError):
        wire.send(self.sock, json.dumps({'status': 'harness', 'reason': f'{type(error).__name__}: {error}'}).encode())
    self._drop_session()

  def _once(self, limits: Limits) -> None:
    """A call of its own, from the fork to the end of all it started.

    The fork itself takes code and input off the socket. This process never holds them, so later forks do not.
    """
    self._watch(self._start(limits, session=False), limits, {'fresh': True})

  def _cell(self, limits: Limits) -> None:
    """The next cell of the session, in the process that holds its state; a new one if there is none."""
    payload = wire.receive(self.sock)
    fresh = self.session is None
    if fresh:
      self.session = self._start(limits, session=True)
    channel = self.session.channel
    while _within(0, channel.fileno()):  # said between cells: of no meaning
      if not _receive(channel, 4096):
        break
    self.family.signal(signal.SIGCONT)
    try:
      channel.settimeout(limits.wall)
      wire.send(channel, *payload)
    except OSError:  # it does not listen or is gone: the watch will tell which
      pass
    self._watch(self.session, limits, {'fresh': fresh})

  def _start(self, limits: Limits, *, session: bool) -> Call:
    """Forks and confines a call. Raises OSError when it could not be confined."""
    if session:  # the sum over its cells has no bound, each has its wall time
      limits = dataclasses.replace(limits, cpu=float(2**31))
    scratch = self.backend.open_scratch(limits)
    (out, out_w), (err, err_w), (ready, ready_w) = os.pipe(), os.pipe(), os.pipe()
    mine, theirs = socket.socketpair() if session else (None, None)
    _reseed()
    pid = self.backend.fork_call()
    if pid == 0:
      self._become_call(limits, scratch, (out_w, err_w, ready_w), theirs)
    for fd in (out_w, err_w, ready_w):
      os.close(fd)
    if theirs:
      theirs.close()
    for fd in (out, err):
      os.set_blocking(fd, False)
    call = Call(pid, out, err, mine, scratch)
    with open(ready, 'rb') as f:
      failure = f.read()
    if failure:
      self._end(call)
      raise OSError(f'the call could not be confined: {failure.decode()}')
    return call

  def _become_call(self, limits: Limits, scratch: str, pipes: tuple[int, int, int], channel) -> NoReturn:
    """The forked process: takes its input, locks itself in, runs."""
    try:
      names, code, stdin, *contents = (b'[]', b'', b'') if channel else wire.receive(self.sock)
      _descriptors(_sealed(stdin), *pipes, channel)
      os.chdir(scratch)
      self.backend.confine(limits, scratch, self.space + limits.memory)
    except BaseException:
      os.write(pipes[2], traceback.format_exc(limit=-2).encode())
      os._exit(1)
    os.close(_READY)
    try:
      _run_cells() if channel else _run_once(code, names, contents)
    except BaseException:
      os.write(2, traceback.format_exc(limit=-2).encode('utf-8', 'replace'))
    finally:
      os._exit(1)  # whatever the code did, it never returns into the slot

  def _watch(self, call: Call, limits: Limits, told: dict) -> None:
    """Follows a call or a cell to its end or to a limit, and tells what came of it."""
    start = time.monotonic()
    captures = [Capture(limits.output) for _ in range(2)]
    call.pipes = dict(zip(call.pipes, captures))
    poll = select.poll()
    for fd in (*call.pipes, call.pidfd, self.sock.fileno(), *([call.channel.fileno()] if call.channel else [])):
      poll.register(fd, select.POLLIN)
    verdict, cell, looked = None, None, start
    while verdict is None and cell is None:
      left = start + limits.wall - time.monotonic()
      events = {fd for fd, _ in poll.poll(1e3 * max(min(_TICK, left), 0))}
      for fd in events & call.pipes.keys():
        if not call.pipes[fd].read(fd):
          poll.unregister(fd)
      if self.sock.fileno() in events:  # nobody waits for the answer any more
        self._drop_session() if call is self.session else self._end(call)
        raise SystemExit(0)
      if call.pidfd in events:
        break
      if call.channel and call.channel.fileno() in events:
        cell = _receive(call.channel, 1)
        if not cell and not _within(0.2, call.pidfd):
          verdict = ('error', 'the session closed its own channel')
        elif not cell:  # closed because the process ended
          break
      elif left <= 0:
        verdict = ('timeout', f'wall time over {limits.wall} s')
      elif sum(c.total for c in captures) > limits.flood:
        verdict = ('output', f'more than {limits.flood} bytes of output')
      elif time.monotonic() > looked + _TICK:
        verdict, looked = self._over(call, limits), time.monotonic()
    told['seconds'] = time.monotonic() - start
    if cell:
      told.update(status='error' if cell[0] else 'ok', code=cell[0])
      self.family.signal(signal.SIGSTOP)  # what it left running waits for the next cell
      _drain(call)
    else:
      if call is self.session:
        self.session = None
      told.update(_outcome(*self._end(call), limits))
      if verdict:
        told.update(status=verdict[0], reason=verdict[1], code=None)
    told['omitted'] = [c.omitted for c in captures]
    wire.send(self.sock, json.dumps(told).encode(), *captures[0].parts(), *captures[1].parts())

  def _over(self, call: Call, limits: Limits) -> tuple[str, str] | None:
    """The verdict on a family that holds more than it may."""
    if self.family.memory() > limits.memory and self.family.exact_memory() > limits.memory:
      return 'memory', f'more than {limits.memory} bytes of memory'
    if self.backend.watched_scratch:
      if (tasks := self.family.tasks()) > limits.tasks:
        return 'error', f'{tasks} processes and threads, more than {limits.tasks}'
      size, count = _usage(call.scratch, limits.inodes)
      if size > limits.disk or count > limits.inodes:
        return 'error', f'more than {limits.disk} bytes or {limits.inodes} files in the working folder'
    return None

  def _end(self, call: Call) -> tuple[int, float]:
    """Kills what is left of a family and clears up; the exit status and the processor seconds of its head."""
    signal.pidfd_send_signal(call.pidfd, signal.SIGKILL) if not _within(0, call.pidfd) else None
    _, status, usage = os.wait4(call.pid, 0)
    while self.family.members():  # only where they are no namespace of their own
      self.family.signal(signal.SIGKILL)
      os.waitpid(-1, 0)
    _drain(call)
    call.close()
    self.backend.close_scratch(call.scratch)
    return status, usage.ru_utime + usage.ru_stime

  def _drop_session(self) -> None:
    if self.session:
      call, self.session = self.session, None
      self._end(call)


def _outcome(status: int, cpu: float, limits: Limits) -> dict:
  """What the exit of a call means when no limit of the watch ended it."""
  code = os.waitstatus_to_exitcode(status)
  told = {'cpu': cpu, 'code': code, 'status': 'error' if code else 'ok', 'reason': ''}
  if code < 0:
    told.update(code=None, reason=f'ended by {signal.Signals(-code).name}')
    if -code in (signal.SIGXCPU, signal.SIGKILL) and cpu >= 0.9 * limits.cpu:
      told.update(status='timeout', reason=f'processor time over {limits.cpu} s')
  return told


def _run_once(code: bytes, names: bytes, contents: list[bytes]) -> None:
  """The body of a one-shot call."""
  atexit._clear()
  _write_files(names, contents)
  runner.attach_streams()
  sys.path.insert(0, '')
  runner.finish(runner.execute(code, runner.fresh_main()))


def _run_cells() -> None:
  """The body of a session's process."""
  atexit._clear()
  sys.path.insert(0, '')
  namespace, channel, number = runner.fresh_main(), socket.socket(fileno=_SESSION), 0
  while True:
    names, code, stdin, *contents = wire.receive(channel)
    number += 1
    _write_files(names, contents)
    runner.attach_streams(stdin)
    code = runner.execute(code, namespace, f'<cell {number}>')
    runner.flush()
    channel.send(bytes([code]))


def _write_files(names: bytes, contents: list[bytes]) -> None:
  for name, content in zip(json.loads(names), contents):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    with open(name, 'wb') as f:
      f.write(content)


def _reseed() -> None:
  """Calls must not share random numbers; `random` sees to itself after a fork."""
  if 'numpy.random' in sys.modules:
    sys.modules['numpy.random'].seed()


def _descriptors(stdin: int, out: int, err: int, ready: int, session: socket.socket | None) -> None:
  """Leaves 0, 1, 2, a session's channel as 3, the set-up pipe as 4, and nothing else."""
  os.setsid()
  high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (stdin, out, err, ready)]
  channel = fcntl.fcntl(session.fileno(), fcntl.F_DUPFD, 64) if session else None
  for fd, target in zip(high, (0, 1, 2, _READY)):
    os.dup2(fd, target)
  os.dup2(channel, _SESSION) if session else os.closerange(_SESSION, _SESSION + 1)
  os.closerange(_READY + 1, 2**16)


def _sealed(data: bytes) -> int:
  """A descriptor from which `data` is read and into which nothing can be written."""
  if not data:
    return os.open('/dev/null', os.O_RDONLY | os.O_CLOEXEC)
  fd = os.memfd_create('stdin', os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
  with open(fd, 'wb', closefd=False) as f:
    f.write(data)
  os.lseek(fd, 0, os.SEEK_SET)
  fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
  return fd


def _drain(call: Call) -> None:
  """Reads what the pipes still hold; those who could write into them are dead or stopped."""
  for fd, capture in call.pipes.items():
    before = -1
    while capture and capture.total > before:
      before = capture.total
      capture.read(fd)


def _receive(channel: socket.socket, size: int) -> bytes:
  """What the code's side of a channel says; empty when it is gone, however it went."""
  try:
    return channel.recv(size)
  except OSError:
    return b''


def _within(seconds: float, fd: int) -> bool:
  """Whether a descriptor becomes readable within that time; of a process descriptor, whether it ended."""
  poll = select.poll()
  poll.register(fd, select.POLLIN)
  return bool(poll.poll(1e3 * seconds))


def _usage(folder: str, enough: int) -> tuple[int, int]:
  """Bytes and entries below a folder; looks no further once there are more than `enough` entries."""
  size = count = 0
  folders = [folder]
  while folders and count <= enough:
    with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # removed meanwhile, as below
      for entry in entries:
        count += 1
        if count > enough:
          break
        with contextlib.suppress(OSError):
          size += entry.stat(follow_symlinks=False).st_blocks * 512
        if entry.is_dir(follow_symlinks=False):
          folders.append(entry.path)
  return size, count
