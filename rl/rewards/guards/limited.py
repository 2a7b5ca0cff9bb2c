"""Calls of a function that may never return, in a process that is killed when one is late."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle

START_SECONDS = 60


class Late(TimeoutError):
  """The call ran past its limit, or its process died."""


class Outcome(NamedTuple):
  """What became of a call: its value, or the reason why there is none."""

  value: Any = None
  reason: str = ''
  late: bool = False


class Limited:
  """`Limited(function, seconds, memory)(*args)` → its value, from a process that is replaced when killed.

  function: anything that cloudpickle can send, lambdas and functions of a notebook included. seconds: wall-clock limit
  of a call. memory: bytes of address space the process may add. An exception of the function is raised again as a
  RuntimeError; a call that is late, or whose process died, raises `Late`.
  Raises ValueError for a function that cannot be sent.
  """

  def __init__(self, function: Callable, seconds: float, memory: int = 1 << 30):
    try:
      self._function = cloudpickle.dumps(function)
    except (TypeError, pickle.PicklingError) as error:
      raise ValueError(f'{function!r} cannot run in another process: {error}') from error
    self._seconds = seconds
    self._memory = memory
    self._process = self._pipe = None

  def __call__(self, *args) -> Any:
    (outcome,) = self.each((), [args])
    if outcome.late:
      raise Late(outcome.reason)
    if outcome.reason:
      raise RuntimeError(outcome.reason)
    return outcome.value

  def each(self, shared: tuple, calls: Sequence[tuple]) -> list[Outcome]:
    """The outcome of function(*shared, *call) for each call; one that is late costs itself alone.

    `shared` is sent once for all calls.
    """
    outcomes = []
    while len(outcomes) < len(calls):
      try:
        self._send((shared, calls[len(outcomes) :]))
        while len(outcomes) < len(calls):
          outcomes.append(self._receive())
      except Late as error:
        self.close()
        outcomes.append(Outcome(reason=str(error), late=True))
    return outcomes

  def _send(self, message) -> None:
    if self._process is None or self._process.poll() is not None:
      self._start()
    try:
      self._pipe.send_bytes(cloudpickle.dumps(message))
    except OSError:
      raise Late('the worker died') from None

  def _receive(self) -> Outcome:
    try:
      if not self._pipe.poll(self._seconds):
        raise Late(f'not done within {self._seconds:g} s')
      ok, value = self._pipe.recv()
    except (EOFError, ConnectionError):
      raise Late('the worker died') from None
    if ok:
      return Outcome(value)
    return Outcome(reason=value)

  def _start(self) -> None:
    # Not multiprocessing's spawn: that would run the user's script again, from its top, in every worker.
    self.close()
    self._pipe, theirs = multiprocessing.Pipe()
    command = [sys.executable, '-P', '-m', 'rl.rewards.guards.worker', str(theirs.fileno()), str(self._memory)]
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    self._process = subprocess.Popen(
      command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=os.environ | {'PYTHONPATH': path}
    )
    weakref.finalize(self, self._process.kill)
    theirs.close()
    try:
      self._pipe.send_bytes(self._function)
      started = self._pipe.poll(START_SECONDS) and self._pipe.recv()
    except (EOFError, OSError):
      started = False
    if not started:
      raise Late(f'the worker did not start within {START_SECONDS} s')

  def close(self) -> None:
    """Ends the process; a later call starts another."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._pipe.close()
      self._process = self._pipe = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()
