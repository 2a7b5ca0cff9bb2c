"""The zygote: loads a profile once, then forks slots on request.

`python -c 'from agents.sandbox import zygote; zygote.main(...)'` with one end of a SOCK_SEQPACKET pair. It answers
`ready`, then each message that carries a descriptor with a process descriptor of the slot that serves on it.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

from agents.sandbox.backends import BACKENDS
from agents.sandbox.family import Family
from agents.sandbox.profiles import PROFILES
from agents.sandbox.slot import Slot


def main(control: int, backend: str, profile: str) -> None:
  """Serves until the other end of `control` is closed."""
  sock = socket.socket(fileno=control)
  try:
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, signal.SIG_DFL)
    proc = os.open('/proc', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    Path('/proc/self/oom_score_adj').write_text('1000', encoding='ascii')     # out of memory, the host kills here first
    jail = BACKENDS[backend](proc)
    jail.launch()
    sys.argv[:] = ['']
    PROFILES[profile]()
    if (threads := len(os.listdir('/proc/thread-self/..'))) > 1:
      raise RuntimeError(f'profile {profile} left {threads} threads; a fork would copy only one')
    gc.collect()
    gc.freeze()                                      # a collection in a child would copy every page it marks
  except OSError as error:                           # the machine does not have it, or does not allow it
    sock.send(f'{type(error).__name__}: {error}'.encode())
    os._exit(1)
  except BaseException:
    sock.send(traceback.format_exc()[-60000:].encode())
    os._exit(1)
  sock.send(b'ready')
  while True:
    message, descriptors, _, _ = socket.recv_fds(sock, 16, 1)
    if not message:
      jail.leave()
      os._exit(0)
    _fork(sock, jail, descriptors[0])
    os.close(descriptors[0])


def _fork(sock: socket.socket, jail, descriptor: int) -> None:
  """Forks the slot that serves on `descriptor` and tells how to reach it."""
  while (gone := _reap()):
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
    family = Family(jail.proc)
    slot = Slot(socket.socket(fileno=descriptor), jail, family)
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
