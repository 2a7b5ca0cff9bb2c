"""The inside of a forked call: its descriptors and input, and the code that it runs."""

import atexit
import fcntl
import json
import os
import socket
import sys

from agents.sandbox import runner, wire

SESSION = 3  # descriptor of a session's cells
READY = 4  # descriptor on which the set-up reports a failure, closed when it succeeds


def run_once(code: bytes, names: bytes, contents: list[bytes]) -> None:
  """The body of a one-shot call."""
  atexit._clear()
  _write_files(names, contents)
  runner.attach_streams()
  sys.path.insert(0, '')
  runner.finish(runner.execute(code, runner.fresh_main()))


def run_cells() -> None:
  """The body of a session's process."""
  atexit._clear()
  sys.path.insert(0, '')
  namespace = runner.fresh_main()
  channel = socket.socket(fileno=SESSION)
  number = 0
  while True:
    names, code, stdin, *contents = wire.receive(channel)
    number += 1
    _write_files(names, contents)
    runner.attach_streams(stdin)
    status = runner.execute(code, namespace, f'<cell {number}>')
    runner.flush()
    channel.send(bytes([status]))


def _write_files(names: bytes, contents: list[bytes]) -> None:
  for name, content in zip(json.loads(names), contents):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    with open(name, 'wb') as f:
      f.write(content)


def reseed() -> None:
  """Reseeds numpy, so that calls do not share random numbers; `random` reseeds itself after a fork."""
  if 'numpy.random' in sys.modules:
    sys.modules['numpy.random'].seed()


def set_descriptors(stdin: int, out: int, err: int, ready: int, session: socket.socket | None) -> None:
  """Leaves 0, 1, 2, a session's channel as 3, the set-up pipe as 4, and no other descriptor."""
  os.setsid()
  # Copies above all targets, so that no target overwrites a source.
  high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (stdin, out, err, ready)]
  channel = None
  if session:
    channel = fcntl.fcntl(session.fileno(), fcntl.F_DUPFD, 64)
  for fd, target in zip(high, (0, 1, 2, READY)):
    os.dup2(fd, target)
  if session:
    os.dup2(channel, SESSION)
  else:
    os.closerange(SESSION, SESSION + 1)
  os.closerange(READY + 1, 2**16)


def sealed(data: bytes) -> int:
  """A read-only descriptor of `data`."""
  if not data:
    return os.open('/dev/null', os.O_RDONLY | os.O_CLOEXEC)
  fd = os.memfd_create('stdin', os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
  with open(fd, 'wb', closefd=False) as f:
    f.write(data)
  os.lseek(fd, 0, os.SEEK_SET)
  seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
  fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
  return fd
