"""The segment engine: between two compiled calls the host harvests, forks and refills.

R slots   C prompt tokens of one call   S tokens of a segment   D width
"""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from core import decoder
from core import mesh as mesh_lib
from core.engine import pack
from core.engine.features import Features
from core.engine.harvest import News, OnTokens, harvest
from core.engine.programs import DevicePrograms, Programs
from core.engine.request import Completion, QueueFull, Request
from core.engine.scheduling.fork import forked
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Prompt
from core.engine.scheduling.sequence import Sequence as Sample
from core.engine.scheduling.slot_requests import SlotRequests
from core.engine.stops import StopStrings
from core.mesh import Mesh, Share

# Sequences that enter and leave slots in one step: they bound its host time, up to 0.3 and 0.1 ms for each.
MOST_ADMITTED = 40
MOST_LEAVING = 64


@dataclasses.dataclass
class Stats:
  """Counts so far: prompt tokens prefilled (again after a preemption), new tokens, pages copied."""

  prefilled: int = 0
  decoded: int = 0
  copied: int = 0


class Engine:
  """Continues requests on a fixed set of slots and pages.

  params, config: of a `core.decoder`. slots: sequences decoded together. pages, page_size: the cache. segment: tokens
  between two looks of the host. chunk: prompt tokens prefilled in one call, so that a long prompt does not block the
  slots. features: the source of images and other features in prompts. text: decodes token ids, for stop strings. mesh:
  the devices it runs on, by default those of the weights; a `core.mesh.Share` if several engines run. max_queued:
  sequences that may wait. top_logprobs: the most likeliest tokens that a request may ask for. programs: replaces the
  device. Everything is compiled here.

  `submit`, `fork`, `so_far`, `cancel` and `encode` may be called from any thread while one thread calls `step`, `run`
  and `update`. A mesh may span processes: each makes the same engine and the same calls in the same order, and reads
  the same tokens. Raises ValueError for impossible sizes.
  """

  def __init__(
    self,
    params: decoder.Params,
    config: decoder.Config,
    *,
    slots: int,
    pages: int,
    page_size: int,
    segment: int,
    chunk: int = 64,
    features: Features | None = None,
    text: Callable[[Sequence[int]], str] | None = None,
    mesh: Mesh | Share | None = None,
    max_queued: int | None = None,
    top_logprobs: int = 0,
    programs: Programs | None = None,
  ):
    if min(slots, pages, page_size, segment, chunk) < 1:
      raise ValueError(f'engine: {slots=}, {pages=}, {page_size=}, {segment=}, {chunk=} must all be positive')
    self.stats = Stats()
    self.version = 0
    self._config = config
    self._features = features
    self._text = text
    self._max_queued = max_queued
    self._top_logprobs = min(top_logprobs, config.vocab)
    self._scheduler = Scheduler(slots, pages, page_size, segment, config.max_length)
    self._chunks = sorted({-(-chunk // 4), chunk})
    self._samples: dict[int, Sample] = {}
    self._ended: collections.deque[Sample] = collections.deque()  # in slots that they have not left yet
    self._next = 0
    self._requests = SlotRequests(slots, config.vocab)
    self._lock = threading.RLock()  # of all host state; not held while the device works
    if programs is None:
      place = mesh or mesh_lib.of(params)
      place = place if isinstance(place, Share) else Share(place, place)
      programs = DevicePrograms(params, config, place, self._scheduler, self._top_logprobs)
    self._programs = programs
    self._warm()

  @property
  def scheduler(self) -> Scheduler:
    """Slots, pages and the queue, to look at."""
    return self._scheduler

  @property
  def idle(self) -> bool:
    """Whether nothing is left to do."""
    return not self._samples

  def submit(self, request: Request) -> list[int]:
    """Encodes the request's media, queues its n samples and returns their ids.

    Raises ValueError if it can never be served, QueueFull if `max_queued` sequences wait.
    """
    self._check(request)
    self._check_queue(request.n)
    with self._named(request) as names:
      self._encode(names)
      with self._lock:
        self._check_queue(request.n)  # again: other threads may have submitted meanwhile
        return self._add(request, Prompt(names))

  def encode(self, request: Request) -> None:
    """Encodes the request's media ahead of `submit`, for instance in another thread."""
    with self._named(request) as names:
      self._encode(names)

  def fork(self, id: int, at: int | None = None, **changes) -> list[int]:
    """New samples that continue an unfinished one from its token `at` (its end, by default), prompt included.

    They share the pages up to there. changes: fields of the request; `n` is 1, `max_new` what is left from `at`, and
    `seed` one of the fork's own, so that it does not repeat its parent. Returns their ids. Raises KeyError for an id
    that is not being worked on, ValueError for an `at` outside its response, a sample with a constraint or a request
    that can never be served, QueueFull as `submit`.
    """
    with self._lock:
      parent = self._samples[id]
      if parent.constraint:
        raise ValueError(f'sample {id} has a constraint; expected none in a fork')
      length = self._scheduler.rows.length(parent)
      prompt = parent.prompt.length
      if at is None:
        at = length
      if not prompt <= at <= length:
        raise ValueError(f'fork at token {at}; expected {prompt}..{length}')
      names = self._scheduler.rows.names(parent, 0, at)
      request = forked(parent, names[prompt:].tolist(), changes)
      self._check(request)
      self._check_queue(request.n)
      parent.forks += 1
      if parent.slot is not None:
        self._scheduler.share_pages(parent)
      return self._add(request, Prompt(names))

  def so_far(self, id: int) -> Completion:
    """An unfinished sample between segments. Raises KeyError for an id that is not being worked on."""
    with self._lock:
      response = self._scheduler.rows.response(self._samples[id])
      return Completion(id, *(x.copy() for x in response), 'unfinished')

  def cancel(self, id: int) -> Completion:
    """Stops a waiting or running sample; returns what it has. Raises KeyError for an id that is not being worked on."""
    with self._lock:
      sample = self._samples[id]
      return self._finish(sample, sample.ended or 'cancelled')

  def update(self, params: Any) -> None:
    """New weights in place of the old: of the decoder, or of the whole model if there is a features source.

    Unfinished samples continue under them; their prompts and tokens so far are prefilled again.
    """
    if self._features:
      params = self._features.update(params)
    self._programs.update(params)
    with self._lock:
      self._scheduler.clear()
      self.version += 1

  def step(self, on_tokens: OnTokens | None = None) -> list[Completion]:
    """Prefills prompts, decodes one segment, and returns the samples that are finished.

    At most `MOST_ADMITTED` samples enter. If more could, nothing is decoded: a segment takes as long with empty slots.
    At most `MOST_LEAVING` samples leave; of more that end together, later steps return the rest.
    on_tokens: called with (id, new tokens, their log-probabilities, at each place the likeliest tokens with theirs) of
    every sample that this step continued.
    """
    with self._lock:
      done = self._leave(MOST_LEAVING)
      self._scheduler.grow()
    last = self._scheduler.admitted + MOST_ADMITTED
    self._prefill(last)
    with self._lock:
      ready = self._scheduler.rows.ready
      if self._admits_more(last) or not ready.any():
        return done
      self._requests.update(self._scheduler, self._programs.set_tables)
      plan, slots = pack.segment(self._scheduler, ready, *self._requests.arrays())
      decoded = [(s, s.slot) for s in self._scheduler.running if ready[s.slot]]
    out = self._programs.decode(plan, slots)
    with self._lock:
      news = harvest(self._scheduler, decoded, out, slots.stops, self.version)
      self.stats.decoded += int(news.kept.sum())
      self._end(news)
      done += self._leave(MOST_LEAVING - len(done))
    if on_tokens:
      news.report(out, on_tokens)
    return done

  def run(self) -> list[Completion]:
    """Steps until nothing is left; completions in the order of their ids."""
    done = []
    while not self.idle:
      done += self.step()
    return sorted(done, key=lambda c: c.id)

  def _check(self, request: Request) -> None:
    total = len(request.prompt) + request.max_new
    vocab = self._config.vocab
    if total > self._config.max_length:
      raise ValueError(
        f'prompt of {len(request.prompt)} tokens and {request.max_new} new ones exceed the context of '
        f'{self._config.max_length}'
      )
    if request.stop_strings and self._text is None:
      raise ValueError('stop strings need an engine with `text`, a function that decodes token ids')
    if len(request.media) and self._features is None:
      raise ValueError('a request with media needs an engine with `features`')
    if request.top_logprobs > self._top_logprobs:
      raise ValueError(f'top_logprobs={request.top_logprobs}; this engine reports at most {self._top_logprobs}')
    request.check_vocabulary(vocab)
    self._scheduler.check(len(request.prompt), request.max_new)

  def _check_queue(self, more: int) -> None:
    waiting = len(self._scheduler.queue)
    if self._max_queued is not None and waiting + more > self._max_queued:
      raise QueueFull(f'{waiting} sequences wait and {more} more were submitted; expected at most {self._max_queued}')

  @contextlib.contextmanager
  def _named(self, request: Request) -> Iterator[np.ndarray]:
    """The prompt's names; its media have a user for the time of the block."""
    if self._features is None:
      yield np.array(request.prompt, np.int64)
      return
    names = self._features.name(request.prompt, request.media)
    try:
      yield names
    finally:
      self._features.release(names)

  def _encode(self, names: np.ndarray) -> None:
    if self._features:
      self._features.encode(names)

  def _add(self, request: Request, prompt: Prompt) -> list[int]:
    """Queues the samples of a request, each of which is a user of its media."""
    strings = None
    if request.stop_strings:
      strings = StopStrings(self._text, request.stop_strings, request.prompt)
    first = self._next
    self._next = self._next + request.n
    samples = []
    for i in range(request.n):
      constraint = request.constraint() if request.constraint else None
      samples.append(Sample(first + i, request, i, prompt, strings and strings.copy(), constraint))
    self._scheduler.add(*samples)
    for sample in samples:
      self._samples[sample.id] = sample
      if self._features:
        self._features.share(prompt.names)
    return [sample.id for sample in samples]

  def _end(self, news: News) -> None:
    """Marks the samples that end: they decode no more, and leave in this step or a later one."""
    for i in sorted(news.ended):
      sample = news.samples[i]
      sample.ended = news.ended[i]
      self._scheduler.rows.end(sample)
      self._ended.append(sample)

  def _leave(self, most: int) -> list[Completion]:
    """Up to `most` of the samples that have ended, which leave their slots."""
    done = []
    while self._ended and len(done) < most:
      sample = self._ended.popleft()
      if sample.id in self._samples:  # else it was cancelled
        done.append(self._finish(sample, sample.ended))
    return done

  def _finish(self, sample: Sample, reason: str) -> Completion:
    self._scheduler.remove(sample, share=reason != 'error')
    del self._samples[sample.id]
    if self._features:
      self._features.release(sample.prompt.names)
    return Completion(sample.id, *sample.response, reason)

  def _admits_more(self, last: int) -> bool:
    """Whether only the bound on entries keeps samples from their slots."""
    s = self._scheduler
    return s.admitted == last and not s.filling and s.may_enter()

  def _prefill(self, last: int) -> None:
    """Admits up to the `last` sequence and prefills.

    Prompts get the time of idle slots, and of half the busy ones before those wait.
    """
    s = self._scheduler
    with self._lock:
      busy = len(s.running) - len(s.filling)
    budget = s.segment * (len(s.slots) - busy // 2)
    while True:
      with self._lock:
        copies = s.admit(last - s.admitted)
        exhausted = budget <= 0 and len(s.running) > len(s.filling)
        work = []
        if not exhausted:
          work = s.unfilled(self._chunks[-1], pack.most_pages(s, self._chunks[-1]))
        inputs = self._pack(work) if work else None
      if copies:
        self._programs.copy(copies)
        self.stats.copied += len(copies)
      if inputs is None:
        return
      self._programs.prefill(*inputs)
      count = _tokens(work)
      budget -= count
      with self._lock:
        self.stats.prefilled += count
        for sample, _, stop in work:
          s.set_filled(sample, stop)

  def _pack(self, work: pack.Work) -> tuple[pack.Prompts, tuple | None]:
    size = next(c for c in self._chunks if c >= _tokens(work))
    prompts = pack.prompts(self._scheduler, work, size, self._chunks[-1])
    return prompts, self._embeddings(prompts.names)

  def _embeddings(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(embeddings [C, D], bool [C] of the tokens that they replace); None without a features source."""
    if self._features is None:
      return None
    given = names < 0
    out = np.zeros((len(names), self._config.width), self._programs.dtype)
    if given.any():
      out[given] = self._features.embeddings(names[given])
    return out, given

  def _warm(self) -> None:
    """Compiles every program on nothing."""
    vocab = self._config.vocab
    for size in self._chunks:
      prompts = pack.prompts(self._scheduler, [], size, self._chunks[-1])
      self._programs.prefill(prompts, self._embeddings(prompts.names))
    if self._features:
      self._features.warm()
    self._programs.set_tables(0, np.ones(vocab, bool), np.zeros(vocab, bool))
    self._programs.copy([])
    idle = np.zeros(len(self._scheduler.slots), bool)
    plan, slots = pack.segment(self._scheduler, idle, *self._requests.arrays())
    self._programs.decode(plan, slots)
    table = np.zeros((len(idle), pack.room(self._scheduler)), np.int32)
    self._programs.decode(plan, slots.replace(table=table))


def _tokens(work: pack.Work) -> int:
  return sum(stop - start for _, start, stop in work)
