"""The thread that steps a scheduler, and the asynchronous side of it."""

import asyncio
import collections
import functools
import threading
from collections.abc import AsyncIterator, Callable

from vibevoice.generation.scheduler import Made, Request, Scheduler


class Failed(RuntimeError):
  """The speech cannot be completed."""


class _Stream:
  """The news of one request on their way to the event loop that reads them; None: there will be no more."""

  def __init__(self):
    self.loop = asyncio.get_running_loop()
    self.news: asyncio.Queue[Made | None] = asyncio.Queue()
    self.ticket: int | None = None

  def put(self, made: Made | None) -> None:
    """To be called from another thread."""
    try:
      self.loop.call_soon_threadsafe(self.news.put_nowait, made)
    except RuntimeError:  # the loop is closed, and so nobody reads
      return


class Worker:
  """Steps a scheduler while it has work. Use it as a context; leaving it ends all speech.

  counts: of what happened since the start, by name. error: what ended the thread, if something did; `stopped` is then
  called, once, because the state of the rows is lost.
  """

  def __init__(self, scheduler: Scheduler, *, stopped: Callable[[], None] = lambda: None):
    self.counts: collections.Counter[str] = collections.Counter()
    self.error: Exception | None = None
    self._scheduler, self._stopped = scheduler, stopped
    self._streams: dict[int, _Stream] = {}
    self._commands: list[Callable[[], None]] = []
    self._wake = threading.Condition()
    self._is_closing = False
    self._thread = threading.Thread(target=self._run, name='speech', daemon=True)

  def __enter__(self) -> 'Worker':
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    with self._wake:
      self._is_closing = True
      self._wake.notify()
    self._thread.join()

  @property
  def running(self) -> int:
    """Rows that are taken."""
    return self._scheduler.running

  async def speak(self, request: Request) -> AsyncIterator[Made]:
    """News of a request as they come, the last one with its end. Closing the iterator before cancels the request.

    Raises Failed when the logits are not finite or the thread has ended.
    """
    stream = _Stream()
    if not self._command(functools.partial(self._submit, stream, request)):
      raise Failed(f'the server stopped: {self.error}')
    try:
      while True:
        made = await stream.news.get()
        if made is None or made.end == 'failed':
          raise Failed('the logits are NaN or infinite' if made else f'the server stopped: {self.error}')
        yield made
        if made.end:
          return
    finally:
      self._command(functools.partial(self._cancel, stream))

  def _command(self, command: Callable[[], None]) -> bool:
    """Hands something to do between two steps to the thread; False if that has ended."""
    with self._wake:
      if self._is_closing:
        return False
      self._commands.append(command)
      self._wake.notify()
    return True

  def _submit(self, stream: _Stream, request: Request) -> None:
    stream.ticket = self._scheduler.submit(request)
    self._streams[stream.ticket] = stream
    self.counts['requests'] += 1

  def _cancel(self, stream: _Stream) -> None:
    if self._streams.pop(stream.ticket, None) is not None:
      self._scheduler.cancel(stream.ticket)
      self.counts['cancelled'] += 1

  def _run(self) -> None:
    try:
      while self._obey():
        for made in self._scheduler.step():
          self._deliver(made)
    except Exception as error:
      self.error = error
      self._stopped()
    self._end()

  def _end(self) -> None:
    """Tells all streams that nothing follows, those of requests that were about to be submitted too."""
    with self._wake:
      self._is_closing = True
      commands, self._commands = self._commands, []
    for command in commands:
      command()
    for stream in self._streams.values():
      stream.put(None)

  def _obey(self) -> bool:
    """Carries out the commands, waiting for one while there is nothing else to do; False when all is to end."""
    with self._wake:
      while self._scheduler.is_idle and not (self._commands or self._is_closing):
        self._wake.wait()
      commands, self._commands = self._commands, []
    for command in commands:
      command()
    return not self._is_closing

  def _deliver(self, made: Made) -> None:
    self.counts['frames'] += made.samples is not None
    self.counts['steps'] += 1
    if made.end:
      self.counts[made.end] += 1
    stream = self._streams.pop(made.ticket) if made.end else self._streams[made.ticket]
    stream.put(made)
