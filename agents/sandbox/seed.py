"""The processes behind a pool: a seed that has imported the profile, its zygote, and the slots that it forks."""

import contextlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import IO

from agents.sandbox import wire
from agents.sandbox.limits import HarnessError
from agents.sandbox.watch import trees

_GRACE = 5.0  # seconds for a zygote to answer
_START = 60.0  # seconds for a seed to import its profile
_JUST = 0.5  # seconds for a process that has closed its connection to end
_SHOWN = 1000  # characters of what a seed wrote that an error quotes
_LEAVE = 3.0  # seconds for a slot or a seed to end what is below it and to remove its files
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


class Slot:
  """The pool's end of one slot."""

  def __init__(self, sock: socket.socket, pidfd: int):
    self.sock = sock
    self.pidfd = pidfd
    self._sending = threading.Lock()

  def ask(self, parts: list[bytes], seconds: float, sent: Callable[[], None]) -> list[bytes]:
    """One request and its answer; calls `sent` in between. Raises OSError if the slot is gone or silent."""
    self.sock.settimeout(seconds)
    with self._sending:
      wire.send(self.sock, parts[0])
      wire.send(self.sock, *parts[1:])
    sent()
    return wire.receive(self.sock, seconds)

  def cleaned(self, seconds: float) -> list[bytes]:
    """What the slot says when it has removed the files of the call. Raises OSError as `ask` does."""
    return wire.receive(self.sock, seconds)

  def abandon(self) -> None:
    """Ends the running call, whose answer then says so. Without effect if it has just ended. From any thread."""
    with contextlib.suppress(OSError), self._sending:
      wire.send(self.sock, wire.STOP)

  def close(self) -> None:
    """Ends the slot and everything in it. It leaves by itself, so that it removes its files; a stuck one is killed."""
    _hang_up(self.sock)
    ended = select.poll()
    ended.register(self.pidfd, select.POLLIN)
    ended.poll(1e3 * _LEAVE)
    with contextlib.suppress(ProcessLookupError):
      signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
    os.close(self.pidfd)


class Seed:
  """A launched seed with its zygote. A lost zygote is replaced by another fork, without new imports."""

  def __init__(self, backend: str, profile: str, wrap: Sequence[str]):
    self.folder = tempfile.mkdtemp(prefix='sandbox-')
    self.zygote = None
    with tempfile.TemporaryFile() as said:
      try:
        self.control, self.process = _launch(backend, profile, wrap, folder=self.folder, said=said)
      except OSError:
        os.rmdir(self.folder)
        raise
      try:
        _hear_ready(self.control, _START)
        self.fork_zygote()
      except OSError as error:
        reasons = (str(error), _ending(self.process), _tail(said))
        self.close()
        raise HarnessError(f'the zygote did not start: {"; ".join(filter(None, reasons))}') from error

  def slot(self) -> Slot:
    """Forks a slot. Raises OSError if that fails, also after the seed has forked a new zygote."""
    try:
      return self._slot()
    except OSError:
      self.fork_zygote()
    return self._slot()

  def fork_zygote(self) -> None:
    """Makes the seed fork a zygote that replaces the last one."""
    if self.zygote:
      self.zygote.close()
    self.zygote, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
      socket.send_fds(self.control, [b'zygote'], [other.fileno()])
    _hear_ready(self.zygote, _GRACE)

  def _slot(self) -> Slot:
    sock, other = socket.socketpair()
    try:
      self.zygote.settimeout(_GRACE)
      socket.send_fds(self.zygote, [b'slot'], [other.fileno()])
      message, descriptors, _, _ = socket.recv_fds(self.zygote, 4096, 1)
      _expect(b'slot', message)
    except OSError:
      sock.close()
      raise
    finally:
      other.close()
    return Slot(sock, descriptors[0])

  def close(self) -> list[str]:
    """Ends the seed, the zygote and all slots; returns what could not be removed of their files and why."""
    _hang_up(self.control)
    if self.zygote:
      _hang_up(self.zygote)
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.process.wait(_LEAVE)
    self.process.kill()
    self.process.wait()
    return trees.remove(self.folder)


def _hang_up(sock: socket.socket) -> None:
  """Closes a connection, also for processes that have inherited this end of it."""
  with contextlib.suppress(OSError):
    sock.shutdown(socket.SHUT_RDWR)
  sock.close()


def _launch(
  backend: str, profile: str, wrap: Sequence[str], *, folder: str, said: IO
) -> tuple[socket.socket, subprocess.Popen]:
  """(our end of its control, a new seed), whose standard error is `said` until it has started."""
  control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  with other, _standard_error() as errors:
    code = _program(other.fileno(), backend, profile, errors.fileno())
    process = subprocess.Popen(
      [*wrap, sys.executable, '-s', '-P', '-c', code],
      pass_fds=[other.fileno(), errors.fileno()],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=said,
      cwd='/',
      start_new_session=True,
      env=_environment(folder),
    )
  return control, process


def _standard_error() -> IO:
  """A copy of this process's standard error, or of nothing if it is closed."""
  try:
    return open(os.dup(2), 'wb')
  except OSError:
    return open(os.devnull, 'wb')


def _ending(process: subprocess.Popen) -> str:
  """How a process has just ended, or nothing if it is still running."""
  with contextlib.suppress(subprocess.TimeoutExpired):
    return f'exit status {process.wait(_JUST)}'
  return ''


def _tail(file: IO) -> str:
  """The end of a file's text on one line."""
  data = os.pread(file.fileno(), 1 << 16, 0)
  return ' '.join(data.decode('utf-8', 'replace').split())[-_SHOWN:]


def _program(control: int, backend: str, profile: str, errors: int) -> str:
  """The code that a seed runs. The project is on sys.path only for its first import."""
  base = str(pathlib.Path(__file__).resolve().parents[2])
  return (
    f'import sys; sys.path.insert(0, {base!r}); from agents.sandbox import zygote; '
    f'sys.path.pop(0); zygote.main({control}, {backend!r}, {profile!r}, {errors})'
  )


def _environment(folder: str) -> dict[str, str]:
  """The environment of a seed whose temporary files go to `folder`."""
  environment = _ENVIRONMENT | {'TMPDIR': folder}
  if 'LD_LIBRARY_PATH' in os.environ:
    environment['LD_LIBRARY_PATH'] = os.environ['LD_LIBRARY_PATH']
  return environment


def _hear_ready(sock: socket.socket, seconds: float) -> None:
  sock.settimeout(seconds)
  try:
    message = sock.recv(1 << 16)
  except TimeoutError as error:
    raise TimeoutError(f'no answer within {seconds:g} s') from error
  _expect(b'ready', message)


def _expect(wanted: bytes, message: bytes) -> None:
  """Raises Closed with the message if it is another than the wanted one."""
  if message != wanted:
    raise wire.Closed(message.decode('utf-8', 'replace').strip() or 'it ended')
