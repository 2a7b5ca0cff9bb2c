"""A slot: forks one call at a time, watches it, and tells what came of it.

The code never holds a channel on which a result is told. The slot itself sees the exit, measures the time and reads
the output from pipes, so there is nothing to forge. Only a session's process says "this cell is done", one byte whose
forgery cuts short nobody's result but its own.
"""

import atexit
import dataclasses
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
import traceback

from agents.sandbox import runner, wire
from agents.sandbox.backends import Plain
from agents.sandbox.family import Family
from agents.sandbox.limits import Limits

_TICK = 0.02                                         # seconds between two looks at a family
_SESSION = 3                                         # the descriptor on which a session's process gets its cells


class Capture:
  """The head and the tail of a stream, and its length."""

  def __init__(self, keep: int):
    self.keep, self.total = max(keep // 2, 1), 0
    self.head, self.tail = bytearray(), bytearray()

  def add(self, data: bytes) -> None:
    self.total += len(data)
    room = self.keep - len(self.head)
    self.head += data[:room]
    self.tail += data[room:] if room > 0 else data
    del self.tail[:-self.keep]

  omitted = property(lambda self: self.total - len(self.head) - len(self.tail))

  def text(self) -> bytes:
    """Valid UTF-8, with a marker where something was left out."""
    if not self.omitted:
      return (self.head + self.tail).decode('utf-8', 'replace').encode()
    marker = f'\n[... {self.omitted} bytes left out ...]\n'
    return (self.head.decode('utf-8', 'replace') + marker + self.tail.decode('utf-8', 'replace')).encode()


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
    while True:
      try:
        meta, code, stdin, *contents = wire.receive(self.sock)
      except OSError:
        break
      meta = json.loads(meta)
      files = list(zip(meta['files'], contents))
      limits = Limits(**meta['limits'])
      try:
        told, out, err = (self._cell if meta['session'] else self._once)(code, stdin, files, limits)
      except OSError as error:
        self._drop_session()
        told, out, err = {'status': 'harness', 'reason': f'{type(error).__name__}: {error}'}, b'', b''
      wire.send(self.sock, json.dumps(told).encode(), out, err)
    self._drop_session()

  def _once(self, code: bytes, stdin: bytes, files: list, limits: Limits) -> tuple[dict, bytes, bytes]:
    """A call of its own, from the fork to the end of all it started."""
    call = self._start(limits, False, stdin, lambda: _run_once(code, files))
    return self._watch(call, limits, {'fresh': True})

  def _cell(self, code: bytes, stdin: bytes, files: list, limits: Limits) -> tuple[dict, bytes, bytes]:
    """The next cell of the session, in the process that holds its state; a new one if there is none."""
    fresh = self.session is None
    if fresh:
      self.session = self._start(limits, True, b'', _run_cells)
    channel = self.session.channel
    while _within(0, channel.fileno()):                           # said between cells: of no meaning
      if not channel.recv(4096):
        break
    self.family.signal(signal.SIGCONT)
    try:
      channel.settimeout(limits.wall)
      names = json.dumps([name for name, _ in files]).encode()
      wire.send(channel, names, code, stdin, *(content for _, content in files))
    except OSError:                                  # it does not listen or is gone: the watch will tell which
      pass
    return self._watch(self.session, limits, {'fresh': fresh})

  def _start(self, limits: Limits, session: bool, stdin: bytes, body) -> Call:
    """Forks and confines a call that then runs `body`. Raises OSError when it could not be confined."""
    if session:                                      # the sum over its cells has no bound, each has its wall time
      limits = dataclasses.replace(limits, cpu=float(2**31))
    scratch = self.backend.open_scratch(limits)
    (out, out_w), (err, err_w), (ready, ready_w) = os.pipe(), os.pipe(), os.pipe()
    mine, theirs = socket.socketpair() if session else (None, None)
    given = _sealed(stdin)
    _reseed()
    pid = self.backend.fork_call()
    if pid == 0:
      try:
        _descriptors(given, out_w, err_w, ready_w, theirs)
        os.chdir(scratch)
        self.backend.confine(limits, scratch, self.space + limits.memory)
      except BaseException:
        os.write(4, traceback.format_exc(limit=-2).encode())
        os._exit(1)
      os.close(4)
      try:
        body()
      except BaseException:
        os.write(2, traceback.format_exc(limit=-2).encode('utf-8', 'replace'))
      finally:
        os._exit(1)                                  # whatever the code did, it never returns into the slot
    for fd in (out_w, err_w, ready_w, given):
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

  def _watch(self, call: Call, limits: Limits, told: dict) -> tuple[dict, bytes, bytes]:
    """Follows a call or a cell to its end or to a limit."""
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
        if not _read(fd, call.pipes[fd]):
          poll.unregister(fd)
      if self.sock.fileno() in events:               # nobody waits for the answer any more
        self._drop_session() if call is self.session else self._end(call)
        raise SystemExit(0)
      if call.pidfd in events:
        break
      if call.channel and call.channel.fileno() in events:
        cell = call.channel.recv(1)
        if not cell and not _within(0.2, call.pidfd):
          verdict = ('error', 'the session closed its own channel')
        elif not cell:                               # closed because the process ended
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
      self.family.signal(signal.SIGSTOP)             # what it left running waits for the next cell
      _drain(call)
    else:
      if call is self.session:
        self.session = None
      told.update(_outcome(*self._end(call), limits))
      if verdict:
        told.update(status=verdict[0], reason=verdict[1], code=None)
    told['omitted'] = [c.omitted for c in captures]
    return told, captures[0].text(), captures[1].text()

  def _over(self, call: Call, limits: Limits) -> tuple[str, str] | None:
    """The verdict on a family that holds more than it may."""
    if self.family.memory() > limits.memory and self.family.exact_memory() > limits.memory:
      return 'memory', f'more than {limits.memory} bytes of memory'
    if self.backend.watched_scratch:
      if (tasks := self.family.tasks()) > limits.tasks:
        return 'error', f'{tasks} processes and threads, more than {limits.tasks}'
      size, count = _usage(call.scratch)
      if size > limits.disk or count > limits.inodes:
        return 'error', f'{size} bytes in {count} files, more than {limits.disk} in {limits.inodes}'
    return None

  def _end(self, call: Call) -> tuple[int, float]:
    """Kills what is left of a family and clears up; the exit status and the processor seconds of its head."""
    signal.pidfd_send_signal(call.pidfd, signal.SIGKILL) if not _within(0, call.pidfd) else None
    _, status, usage = os.wait4(call.pid, 0)
    while self.family.members():                     # only where they are no namespace of their own
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


def _run_once(code: bytes, files: list) -> None:
  """The body of a one-shot call."""
  atexit._clear()
  _write_files(files)
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
    _write_files(zip(json.loads(names), contents))
    runner.attach_streams(stdin)
    code = runner.execute(code, namespace, f'<cell {number}>')
    runner.flush()
    channel.send(bytes([code]))


def _write_files(files) -> None:
  for name, content in files:
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
  for fd, target in zip(high, (0, 1, 2, 4)):
    os.dup2(fd, target)
  os.dup2(channel, _SESSION) if session else os.closerange(_SESSION, _SESSION + 1)
  os.closerange(5, 2**16)


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


def _read(fd: int, capture: Capture) -> bool:
  """Reads what is there; False at the end of the stream."""
  try:
    data = os.read(fd, 1 << 16)
  except BlockingIOError:
    return True
  capture.add(data)
  return bool(data)


def _drain(call: Call) -> None:
  """Reads what the pipes still hold, at most what they can hold."""
  for fd, capture in call.pipes.items():
    for _ in range(32):
      before = capture.total if capture else 0
      if not capture or not _read(fd, capture) or capture.total == before:
        break


def _within(seconds: float, fd: int) -> bool:
  """Whether a descriptor becomes readable within that time; of a process descriptor, whether it ended."""
  poll = select.poll()
  poll.register(fd, select.POLLIN)
  return bool(poll.poll(1e3 * seconds))


def _usage(folder: str) -> tuple[int, int]:
  """Bytes and entries below a folder."""
  size = count = 0
  for place, folders, names in os.walk(folder):
    for name in (*folders, *names):
      count += 1
      try:
        size += os.lstat(os.path.join(place, name)).st_blocks * 512
      except OSError:                                # removed meanwhile
        continue
  return size, count
