"""A server process that is replaced when it dies: its socket and its pool live in the process that watches it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator

from agents.sandbox import HarnessError, Pool
from agents.sandbox.isolation import linux

_SOON, _FAILURES = 10.0, 4  # seconds; quick failures in a row after which it gives up
_LOOK = 0.1  # seconds between two looks at the server
_ENDINGS = {signal.SIGTERM: 0, signal.SIGINT: 130}  # the exit status once told to end

Serve = Callable[[socket.socket, Pool], Awaitable[None]]


@contextlib.contextmanager
def _held() -> Iterator[None]:
  """Signals that end the service arrive afterwards: none may come while it is unclear whom they are for."""
  signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


def fork_server(sock: socket.socket, pool: Pool, serve: Serve) -> int:
  """Forks the server, which dies with us; its process id. Everything is imported and loaded, so it starts at once."""
  holder = os.getpid()
  if pid := os.fork():
    return pid
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
  linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
  try:
    if os.getppid() == holder:
      asyncio.run(serve(sock, pool))
  except KeyboardInterrupt:
    os._exit(_ENDINGS[signal.SIGINT])
  except BaseException:
    traceback.print_exc()
    os._exit(1)
  os._exit(0)


def _wait(server: int) -> int:
  """The exit code of a process once it ends.

  Python runs handlers between its instructions. A signal that comes just before a call that blocks would wait with it
  for the process that it should end.
  """
  while True:
    ended, status = os.waitpid(server, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)
    time.sleep(_LOOK)


def watch(sock: socket.socket, pool: Pool, serve: Serve) -> int:
  """Keeps a server running on the socket; the exit status once it was told to end, or 1 when it cannot start."""
  server = 0
  told = 0
  failures = 0

  def stop(number, _):
    nonlocal told
    told = number
    if server:
      with contextlib.suppress(ProcessLookupError):
        os.kill(server, number)

  for number in _ENDINGS:
    signal.signal(number, stop)
  while True:
    started = time.monotonic()
    with _held():
      if told:
        return _ENDINGS[told]
      server = fork_server(sock, pool, serve)
    code = _wait(server)
    server = 0
    if told:
      return _ENDINGS[told]
    if code in _ENDINGS.values():
      return code
    if -code in _ENDINGS:
      return _ENDINGS[-code]
    failures = failures + 1 if code > 0 and time.monotonic() - started < _SOON else 0
    if failures == _FAILURES:
      return 1
    print(f'the server ended with {code}; starting another', file=sys.stderr, flush=True)
    try:
      pool.renew()  # the next server must not read answers to what the dead one asked the zygote
    except HarnessError as error:  # the next server tries again for each call
      print(error, file=sys.stderr, flush=True)
