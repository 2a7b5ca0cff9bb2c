"""A thread that steps a device while there is work, and streams from it to an event loop."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Failed(RuntimeError):
  """What was asked cannot be completed, through no fault of the client."""


class Stream:
  """News for one request on their way from another thread to the event loop that reads them."""

  def __init__(self):
    self._loop = asyncio.get_running_loop()
    self._news: asyncio.Queue[Any] = asyncio.Queue()

  def put(self, news: Any) -> None:
    """To be called from any thread."""
    try:
      self._loop.call_soon_threadsafe(self._news.put_nowait, news)
    except RuntimeError:  # the loop is closed, so no client reads
      return

  async def get(self) -> Any:
    """The next news."""
    return await self._news.get()


class Stepper:
  """Calls `step` in a thread of its own while `is_idle` is false, and commands between two steps.

  Use it as a context. error: what ended the thread, if something did; `stopped` is then called, once, because the state
  of the device is lost. ended: called in the thread when it ends, after the commands that were still to be done.
  """

  def __init__(
    self,
    step: Callable[[], None],
    is_idle: Callable[[], bool],
    *,
    ended: Callable[[], None],
    stopped: Callable[[], None] = lambda: None,
    name: str = 'stepper',
  ):
    self.error: Exception | None = None
    self._step = step
    self._is_idle = is_idle
    self._ended = ended
    self._stopped = stopped
    self._commands: list[Callable[[], None]] = []
    self._wake = threading.Condition()
    self._is_closing = False
    self._thread = threading.Thread(target=self._run, name=name, daemon=True)

  def __enter__(self) -> 'Stepper':
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    with self._wake:
      self._is_closing = True
      self._wake.notify()
    self._thread.join()

  def command(self, command: Callable[[], None]) -> bool:
    """Has the thread call `command` between two steps; False if it has ended. A command must not raise."""
    with self._wake:
      if self._is_closing:
        return False
      self._commands.append(command)
      self._wake.notify()
    return True

  def failure(self) -> Failed:
    """The error that callers get that wait for the thread after its end."""
    reason = 'it is ending'
    if self.error:
      reason = f'{type(self.error).__name__}: {self.error}'
    return Failed(f'the server stopped: {reason}')

  def _run(self) -> None:
    try:
      while self._obey():
        self._step()
    except Exception as error:
      self.error = error
      self._stopped()
    with self._wake:
      self._is_closing = True
      commands = self._commands
      self._commands = []
    for command in commands:
      command()
    self._ended()

  def _obey(self) -> bool:
    """Carries out the commands, waiting for one while there is nothing else to do; False when all is to end."""
    with self._wake:
      while self._is_idle() and not (self._commands or self._is_closing):
        self._wake.wait()
      commands = self._commands
      self._commands = []
    for command in commands:
      command()
    return not self._is_closing
