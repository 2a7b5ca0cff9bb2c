"""From a request's JSON to its reply, whole or as a stream."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from core.serving import metrics
from core.serving.admission import Capacity
from core.serving.chat import asked as asked_lib
from core.serving.chat.asked import Chat, Completion
from core.serving.chat.model import Prepared, Served
from core.serving.chat.replies import Replies
from core.serving.chat.worker import Worker
from core.serving.chat.writing import Piece, Writer
from core.serving.http import sse

MEANINGS = {
  'samples': 'samples that entered the engine',
  'ended': 'samples that ended',
  'cancelled': 'samples whose client left or waited too long',
  'tokens': 'tokens sampled',
  'prompt_tokens': 'tokens of prompts',
  'first_tokens': 'requests that got their first token',
}


class UnknownModel(ValueError):
  """A request for a model that is not served."""


class Service:
  """Replies of a model. capacity: of samples that run or wait. seconds: that a request may take."""

  def __init__(self, model: Served, worker: Worker, *, capacity: Capacity, seconds: float):
    self.model = model
    self.worker = worker
    self.capacity = capacity
    self._seconds = seconds
    self._first_seconds = 0.0  # from request to first token, of all requests

  def chat(self, body: Any) -> Chat:
    """A chat completion, checked. Raises ValueError in one line."""
    return self._known(asked_lib.chat(body, self.model.defaults, self.model.extra))

  def completion(self, body: Any) -> Completion:
    """A text completion, checked. Raises ValueError in one line."""
    return self._known(asked_lib.completion(body, self.model.defaults))

  async def reply(self, asked: Chat | Completion) -> dict[str, Any]:
    """The whole reply. Raises as `events`."""
    async with contextlib.aclosing(self._pieces(asked)) as pieces:
      replies = await anext(pieces)
      samples: list[list[Piece]] = [[] for _ in range(await anext(pieces))]
      async for index, piece in pieces:
        samples[index].append(piece)
    return replies.whole(samples)

  async def events(self, asked: Chat | Completion) -> AsyncIterator[bytes]:
    """The reply as server-sent events. Close the iterator: an abandoned request costs until then.

    Raises ValueError for what the model cannot do, `core.serving.admission.Full` where the queue is full,
    TimeoutError, and `core.serving.stepping.Failed` when the device fails.
    """
    async with contextlib.aclosing(self._pieces(asked)) as pieces:
      replies = await anext(pieces)
      await anext(pieces)
      begun = False
      async for index, piece in pieces:
        for chunk in [] if begun else replies.opening():
          yield sse.event(chunk)
        begun = True
        for chunk in replies.chunks(index, piece):
          yield sse.event(chunk)
      for chunk in replies.ending():
        yield sse.event(chunk)
    yield sse.DONE

  async def _pieces(self, asked: Chat | Completion) -> AsyncIterator[Any]:
    """The request's `Replies`, the number of its samples, then (sample, piece) as they come."""
    started = time.monotonic()
    prompts = 1
    if isinstance(asked, Completion):
      prompts = len(asked.prompts)
    with self.capacity.hold(asked.n * prompts):
      async with asyncio.timeout(self._seconds):
        prepared = await self.model.prepare(asked)
      writers = self._writers(asked, prepared)
      yield Replies(asked, prepared, writers)
      yield len(writers)
      requests = [p.request for p in prepared]
      self.worker.counts['prompt_tokens'] += sum(len(request.prompt) for request in requests)
      left = self._seconds - (time.monotonic() - started)
      is_first = True
      async with contextlib.aclosing(self.worker.generate(requests, seconds=left)) as news:
        async for told in news:
          if is_first:
            self._note_first(time.monotonic() - started)
            is_first = False
          yield told.sample, writers[told.sample].push(told)

  def _writers(self, asked: Chat | Completion, prepared: Sequence[Prepared]) -> list[Writer]:
    with_calls = isinstance(asked, Chat) and bool(asked.tools)
    count = sum(p.request.n for p in prepared)
    return [Writer(self.model, asked.stop, with_calls) for _ in range(count)]

  def _note_first(self, seconds: float) -> None:
    self.worker.counts['first_tokens'] += 1
    self._first_seconds += seconds

  def _known(self, asked: Any) -> Any:
    if asked.model != self.model.name:
      raise UnknownModel(f'model={asked.model!r:.80}: this server has {self.model.name!r} only')
    return asked

  def samples(self) -> list[metrics.Sample]:
    """Counts and gauges for Prometheus."""
    engine = self.worker.engine
    counts = self.worker.counts
    made = [
      metrics.Sample(f'espalier_{name}_total', counts[name], 'counter', meaning) for name, meaning in MEANINGS.items()
    ]
    scheduler = engine.scheduler
    totals = {
      'prefilled_tokens': (
        engine.stats.prefilled,
        'prompt tokens prefilled; those in shared pages are not',
      ),
      'first_token_seconds': (self._first_seconds, 'from request to first token, of all requests together'),
      'preempted': (scheduler.preempted, 'samples that left their slot because pages ran out'),
    }
    gauges = {
      'in_flight': (self.capacity.held, 'samples that are prepared, run or wait'),
      'waiting': (len(scheduler.queue), 'samples that wait for a slot'),
      'running': (len(scheduler.running), 'samples in slots'),
      'free_pages': (scheduler.pool.free, 'pages of the cache that hold nothing'),
    }
    made += [metrics.Sample(f'espalier_{n}_total', v, 'counter', text) for n, (v, text) in totals.items()]
    return made + [metrics.Sample(f'espalier_{n}', v, 'gauge', text) for n, (v, text) in gauges.items()]
