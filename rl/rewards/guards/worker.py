"""The process behind a `Limited`: python -m rl.rewards.guards.worker FD MEMORY.

It reads a pickled function, then batches of calls, and answers each call as soon as it is done.
"""

import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import cloudpickle


def serve(pipe: Connection, memory: int) -> None:
  """Answers calls until the other end closes. memory: bytes of address space that the calls may add."""
  function = cloudpickle.loads(pipe.recv_bytes())
  _warm(function)
  _limit_memory(memory)
  pipe.send('ready')
  while True:
    try:
      shared, calls = cloudpickle.loads(pipe.recv_bytes())
    except EOFError:
      return
    for call in calls:
      _answer(pipe, function, (*shared, *call))


def _answer(pipe: Connection, function: Callable, args: tuple) -> None:
  try:
    pipe.send((True, function(*args)))
  except Exception as error:
    pipe.send((False, f'{type(error).__name__}: {error}'[:500]))


def _warm(function: Callable) -> None:
  """Loads what the function needs before its clock runs, if it or its module says how."""
  module = sys.modules.get(getattr(function, '__module__', None))
  warm_up = getattr(function, 'warm_up', None) or getattr(module, 'warm_up', None)
  if warm_up is not None:
    warm_up()


def _limit_memory(extra: int) -> None:
  with open('/proc/self/statm') as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))


if __name__ == '__main__':
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's business
  serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
