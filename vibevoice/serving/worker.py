"""The thread that steps a scheduler, and the asynchronous side of it."""

import collections
import functools
from collections.abc import AsyncIterator, Callable

from core.serving.stepping import Failed, Stepper, Stream
from vibevoice.generation.scheduler import Made, Request, Scheduler


class Worker:
  """Steps a scheduler while it has work. Use it as a context; leaving it ends all speech.

  counts: of what happened since the start, by name. stopped: called once if the device fails.
  """

  def __init__(self, scheduler: Scheduler, *, stopped: Callable[[], None] = lambda: None):
    self.counts: collections.Counter[str] = collections.Counter()
    self._scheduler = scheduler
    self._streams: dict[int, Stream] = {}
    idle = lambda: scheduler.is_idle
    self._stepper = Stepper(self._step, idle, ended=self._end, stopped=stopped, name='speech')

  def __enter__(self) -> 'Worker':
    self._stepper.__enter__()
    return self

  def __exit__(self, *error) -> None:
    self._stepper.__exit__(*error)

  @property
  def error(self) -> Exception | None:
    """What ended the thread, if something did."""
    return self._stepper.error

  @property
  def running(self) -> int:
    """Rows that are taken."""
    return self._scheduler.running

  async def speak(self, request: Request) -> AsyncIterator[Made]:
    """News of a request as they come, the last one with its end. Closing the iterator before cancels the request.

    Raises Failed when the logits are not finite or the thread has ended.
    """
    stream = Stream()
    ticket = []
    if not self._stepper.command(functools.partial(self._submit, stream, request, ticket)):
      raise self._stepper.failure()
    try:
      while True:
        made = await stream.get()
        if made is None:
          raise self._stepper.failure()
        if made.end == 'failed':
          raise Failed('the logits are NaN or infinite')
        yield made
        if made.end:
          return
    finally:
      self._stepper.command(functools.partial(self._cancel, ticket))

  def _submit(self, stream: Stream, request: Request, ticket: list[int]) -> None:
    """Appends the number of the request to `ticket`."""
    ticket.append(self._scheduler.submit(request))
    self._streams[ticket[0]] = stream
    self.counts['requests'] += 1

  def _cancel(self, ticket: list[int]) -> None:
    if ticket and self._streams.pop(ticket[0], None) is not None:
      self._scheduler.cancel(ticket[0])
      self.counts['cancelled'] += 1

  def _step(self) -> None:
    for made in self._scheduler.step():
      self.counts['frames'] += made.samples is not None
      self.counts['steps'] += 1
      if made.end:
        self.counts[made.end] += 1
      stream = self._streams.pop(made.ticket) if made.end else self._streams[made.ticket]
      stream.put(made)

  def _end(self) -> None:
    """Tells all streams that nothing follows."""
    for stream in self._streams.values():
      stream.put(None)
