"""Runs a function that may never return in a process that is killed when it is late."""

import multiprocessing
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context('spawn')


class Late(TimeoutError):
  """The call ran past its limit, or its process died."""


class Limited:
  """`Limited(function, seconds, memory)(*args)` → its value, from a process that is replaced when killed.

  function: importable by name. memory: bytes of address space the worker may add. An exception of the
  function is raised again as a RuntimeError; being late, or dead, is `Late`.
  """

  def __init__(self, function: Callable, seconds: float, memory: int = 1 << 30):
    self._function, self._seconds, self._memory = function, seconds, memory
    self._process = self._pipe = None

  def __call__(self, *args) -> Any:
    if self._process is None or not self._process.is_alive():
      self._start()
    try:
      self._pipe.send(args)
      if not self._pipe.poll(self._seconds):
        raise Late(f'not done within {self._seconds:g} s')
      ok, value = self._pipe.recv()
    except Late:
      self.close()
      raise
    except (EOFError, OSError):
      self.close()
      raise Late('the worker died') from None
    if not ok:
      raise RuntimeError(value)
    return value

  def _start(self) -> None:
    self._pipe, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_work, args=(theirs, self._function, self._memory), daemon=True)
    process.start()
    self._process = process
    theirs.close()
    try:
      started = self._pipe.poll(60) and self._pipe.recv()
    except (EOFError, OSError):
      started = False
    if not started:
      self.close()
      raise Late('the worker did not start within 60 s')

  def close(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._pipe.close()
      self._process = self._pipe = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()


def _work(pipe, function: Callable, memory: int) -> None:
  _warm(function)
  _limit_memory(memory)
  pipe.send('ready')
  while True:
    try:
      args = pipe.recv()
    except EOFError:
      return
    try:
      pipe.send((True, function(*args)))
    except Exception as error:
      pipe.send((False, f'{type(error).__name__}: {error}'[:500]))


def _warm(function: Callable) -> None:
  """Imports what the function needs before its clock runs, if its module says how."""
  import sys

  warm = getattr(sys.modules[function.__module__], 'warm_up', None)
  if warm:
    warm()


def _limit_memory(extra: int) -> None:
  import resource

  with open('/proc/self/statm') as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + extra, used + extra))
