"""The seed loads a profile once and forks a zygote, and another when that one dies; the zygote forks slots on request.

`python -c 'from agents.sandbox import zygote; zygote.main(...)'` with one end of a SOCK_SEQPACKET pair. The seed says
`ready`, then takes descriptors of such ends for zygotes. A zygote says `ready` on its own, and answers each message
that carries a descriptor with a process descriptor of the slot that serves on it. Only the seed imports, so a new
zygote costs a fork, and its memory is the seed's.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from agents.sandbox.isolation.backends import BACKENDS, Plain
from agents.sandbox.profiles import PROFILES
from agents.sandbox.slot import Slot
from agents.sandbox.watch import trees

_LEAVE = 2.0  # seconds a zygote has to end what is below it


class _Zygote:
  """The seed's view of a zygote: its process and its folder."""

  def __init__(self, pid: int, folder: str):
    self.pid = pid
    self.folder = folder

  def end(self, seconds: float, jail: Plain) -> None:
    """Waits for it to leave, then kills it and what it left."""
    pidfd = os.pidfd_open(self.pid)
    if not select.select([pidfd], [], [], seconds)[0]:
      signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    os.waitpid(self.pid, 0)
    jail.end_orphans()
    for problem in trees.remove(self.folder):
      print(f'sandbox: not removed: {problem}', file=sys.stderr, flush=True)


def main(control: int, backend: str, profile: str, errors: int) -> None:
  """The seed: serves until the other end of `control` is closed. errors: what is standard error once it has started."""
  sock = socket.socket(fileno=control)
  jail = _tell(sock, lambda: _load(backend, profile))
  os.dup2(errors, 2)
  os.close(errors)
  zygote = None
  while True:
    message, descriptors = _next(sock)
    if zygote:
      zygote.end(0.0 if message else _LEAVE, jail)  # asked for another: this one is dead or as good as dead
    if not message:
      trees.remove(os.environ['TMPDIR'])  # what it cannot remove, the pool will try, and tell
      os._exit(0)
    zygote = _fork_zygote(sock, jail, descriptors[0])
    os.close(descriptors[0])


def _load(backend: str, profile: str) -> Plain:
  """Imports everything; the backend."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  proc = os.open('/proc', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
  Path('/proc/self/oom_score_adj').write_text('1000', encoding='ascii')  # out of memory, the host kills here first
  sys.argv[:] = ['']
  PROFILES[profile]()
  if (threads := len(os.listdir('/proc/thread-self/..'))) > 1:
    raise RuntimeError(f'profile {profile} left {threads} threads; a fork would copy only one')
  gc.collect()
  gc.freeze()  # a collection in a child would copy every page it marks
  return BACKENDS[backend](proc)


def _tell(sock: socket.socket, start: Callable) -> Plain:
  """Starts, and tells `ready`; or tells why not, and ends the process."""
  try:
    started = start()
  except OSError as error:  # the machine does not have it, or does not allow it
    sock.send(f'{type(error).__name__}: {error}'.encode())
    os._exit(1)
  except BaseException:
    sock.send(traceback.format_exc()[-60000:].encode())
    os._exit(1)
  with contextlib.suppress(ConnectionError):  # nobody listens any more, as the next read will tell
    sock.send(b'ready')
  return started


def _next(sock: socket.socket) -> tuple[bytes, list[int]]:
  """The next request and its descriptors; empty when the other end is gone."""
  try:
    return socket.recv_fds(sock, 16, 1)[:2]
  except ConnectionError:
    return b'', []


def _fork_zygote(sock: socket.socket, jail: Plain, descriptor: int) -> _Zygote | None:
  """Forks the zygote that serves on `descriptor`; tells there when it cannot."""
  folder = tempfile.mkdtemp(dir=os.environ['TMPDIR'])
  try:
    pid = jail.fork_zygote()
  except OSError as error:
    os.rmdir(folder)
    os.write(descriptor, f'{type(error).__name__}: {error}'.encode())
    return None
  if pid == 0:
    sock.close()
    os.environ['TMPDIR'] = folder
    _serve(socket.socket(fileno=descriptor), jail)
  return _Zygote(pid, folder)


def _serve(sock: socket.socket, jail: Plain) -> NoReturn:
  """The zygote: serves until the other end of `sock` is closed."""
  _tell(sock, jail.launch)
  while True:
    message, descriptors = _next(sock)
    if not message:
      jail.end_family(jail.family())
      os._exit(0)
    _fork(sock, jail, descriptors[0])
    os.close(descriptors[0])


def _fork(sock: socket.socket, jail, descriptor: int) -> None:
  """Forks the slot that serves on `descriptor` and tells how to reach it."""
  while gone := _reap():
    jail.released(gone)
  try:
    pid = jail.fork_slot()
  except OSError as error:
    sock.send(f'{type(error).__name__}: {error}'.encode())
    return
  if pid == 0:
    _become_slot(sock, jail, descriptor)
  pidfd = os.pidfd_open(pid)
  socket.send_fds(sock, [b'slot'], [pidfd])
  os.close(pidfd)


def _become_slot(sock: socket.socket, jail, descriptor: int) -> None:
  """Never returns."""
  try:
    sock.close()
    slot = Slot(socket.socket(fileno=descriptor), jail)
    jail.settle()
    slot.serve()
  except SystemExit:
    pass
  except BaseException:
    traceback.print_exc()
    os._exit(1)
  os._exit(0)


def _reap() -> int:
  """The id of a slot that ended, 0 if none did."""
  try:
    return os.waitpid(-1, os.WNOHANG)[0]
  except ChildProcessError:
    return 0
