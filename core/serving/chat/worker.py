"""The thread that steps an engine, and the asynchronous side of it."""

import asyncio
import collections
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from core.engine import Engine, Request
from core.engine.harvest import Top
from core.serving.stepping import Failed, Stepper, Stream


class News(NamedTuple):
  """What a step adds to a sample: its number among those of the request, tokens, log-probabilities, why it ended.

  top: the likeliest tokens in the place of each token, empty if they were not asked for.
  """

  sample: int
  tokens: list[int]
  logp: list[float]
  top: Top
  reason: str | None


class Worker:
  """Steps an engine while it has work. Use it as a context; leaving it ends all samples.

  counts: of what happened since the start, by name. stopped: called once if the device fails.
  """

  def __init__(self, engine: Engine, *, stopped: Callable[[], None] = lambda: None):
    self.engine = engine
    self.counts: collections.Counter[str] = collections.Counter()
    self._streams: dict[int, tuple[Stream, int]] = {}  # by the engine's id: where its news go, as which sample
    idle = lambda: engine.idle
    self._stepper = Stepper(self._step, idle, ended=self._end, stopped=stopped, name='engine')

  def __enter__(self) -> 'Worker':
    self._stepper.__enter__()
    return self

  def __exit__(self, *error) -> None:
    self._stepper.__exit__(*error)

  @property
  def error(self) -> Exception | None:
    """What ended the thread, if something did."""
    return self._stepper.error

  async def generate(self, requests: Sequence[Request], *, seconds: float) -> AsyncIterator[News]:
    """News of all samples of some requests until they have ended. Closing the iterator before cancels them.

    Raises ValueError for a request that the engine refuses, Failed when the logits are not finite or the thread has
    ended, TimeoutError after `seconds`.
    """
    stream = Stream()
    ids = []
    deadline = time.monotonic() + seconds
    if not self._stepper.command(functools.partial(self._submit, stream, requests, ids)):
      raise self._stepper.failure()
    left = sum(request.n for request in requests)
    try:
      while left:
        news = await asyncio.wait_for(stream.get(), max(deadline - time.monotonic(), 0))
        if news is None:
          raise self._stepper.failure()
        if isinstance(news, Exception):
          raise news
        if news.reason == 'error':
          raise Failed('the logits are NaN or infinite')
        left -= news.reason is not None
        yield news
    finally:
      self._stepper.command(functools.partial(self._cancel, ids))

  def _submit(self, stream: Stream, requests: Sequence[Request], ids: list[int]) -> None:
    """Appends the engine's ids of all samples to `ids`; none of them is left if a request is refused."""
    try:
      for request in requests:
        for id in self.engine.submit(request):
          self._streams[id] = stream, len(ids)
          ids.append(id)
    except Exception as error:  # the client that asked gets the engine's refusal
      self._cancel(ids)
      stream.put(error)
      return
    self.counts['samples'] += len(ids)

  def _cancel(self, ids: list[int]) -> None:
    for id in ids:
      if self._streams.pop(id, None) is not None:
        self.engine.cancel(id)
        self.counts['cancelled'] += 1

  def _step(self) -> None:
    pending: dict[int, tuple[list[int], list[float], Top]] = {}
    done = self.engine.step(lambda id, *told: pending.__setitem__(id, told))
    reasons = {completion.id: completion.reason for completion in done}
    for id in {**pending, **reasons}:
      self._tell(id, *pending.get(id, ([], [], [])), reasons.get(id))

  def _tell(self, id: int, tokens: list[int], logp: list[float], top: Top, reason: str | None) -> None:
    if id not in self._streams:
      return
    stream, sample = self._streams.pop(id) if reason else self._streams[id]
    self.counts['tokens'] += len(tokens)
    if reason:
      self.counts['ended'] += 1
    stream.put(News(sample, tokens, logp, top, reason))

  def _end(self) -> None:
    """Tells all streams that nothing follows."""
    for stream, _ in self._streams.values():
      stream.put(None)
