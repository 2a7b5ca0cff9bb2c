"""The segment engine: between two compiled calls the host harvests, forks, refills.

R slots   C prompt tokens of one call   S tokens of a segment
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import internvl
from core import mesh as mesh_lib
from core.engine import device, pack
from core.engine import layout as weights
from core.engine.request import Completion, Request
from core.engine.scheduler import Row, Scheduler
from core.engine.stops import StopStrings
from core.mesh import Mesh, Share
from core.past.pages import pools
from internvl.features import Images


@dataclasses.dataclass
class Stats:
  """Counts so far: prompt tokens filled in (again after a preemption), new tokens, pages copied."""

  prefilled: int = 0
  decoded: int = 0
  copied: int = 0


def _completion(row: Row, reason: str) -> Completion:
  return Completion(
    row.id, np.array(row.tokens, np.int32), np.array(row.logp, np.float32), np.array(row.version, np.int32), reason
  )


class Engine:
  """Continues requests on a fixed set of slots and pages.

  params, config: of a `core.decoder`, or of `internvl` for requests with images. slots: rows decoded together. pages,
  page_size: the cache. segment: tokens between two looks of the host. chunk: prompt tokens filled in at a time, so that
  a long prompt does not hold up the slots. text: decodes token ids, for stop strings. mesh: the devices it takes, by
  default those of the weights; a `core.mesh.Share` where engines lie beside each other. Everything is compiled here.

  A mesh may span processes: each makes this same engine and the same calls in the same order, and reads the same
  tokens. Raises ValueError on impossible sizes.
  """

  def __init__(
    self,
    params,
    config,
    *,
    slots: int,
    pages: int,
    page_size: int,
    segment: int,
    chunk: int = 64,
    text: Callable[[Sequence[int]], str] | None = None,
    mesh: Mesh | Share | None = None,
  ):
    if min(slots, pages, page_size, segment, chunk) < 1:
      raise ValueError(f'engine: {slots=}, {pages=}, {page_size=}, {segment=}, {chunk=} must all be positive')
    self.stats, self.version = Stats(), 0
    mesh = mesh or mesh_lib.of(params)
    self._place = mesh if isinstance(mesh, Share) else Share(mesh, mesh)
    self._images = Images(params, config, self._place) if isinstance(config, internvl.Config) else None
    language, self._config = (params.language, config.language) if self._images else (params, config)
    self._params = weights.lay(language, self._config, self._place)
    self._scheduler = Scheduler(slots, pages, page_size, segment)
    self._chunks = sorted({-(-chunk // 4), chunk})
    self._text = text
    self._rows: dict[int, Row] = {}
    self._next = 0
    home, choices = self._place.mesh, (slots, self._config.vocab)
    self._masks: list[np.ndarray | None] = [None] * slots
    with jax.set_mesh(home):
      self._k, self._v = pools(self._config, pages, page_size, language.embed.dtype, home)
      self._allowed = jax.jit(
        lambda: jnp.ones(choices, bool), out_shardings=mesh_lib.sharding(choices, device.CHOICES, home)
      )()
      self._warm()

  @property
  def scheduler(self) -> Scheduler:
    """Slots, pages and the queue, to look at."""
    return self._scheduler

  @property
  def idle(self) -> bool:
    """Whether nothing is left to do."""
    return not self._rows

  def submit(self, request: Request) -> list[int]:
    """Queues the request's n samples and returns their ids. Raises ValueError when it can never be served."""
    self._check(request)
    content = self._images.name(request.prompt, request.images) if self._images else list(request.prompt)
    ids = []
    for sample in range(request.n):
      if sample and self._images:
        self._images.share(content)
      ids.append(self._add(request, sample, list(content)))
    return ids

  def fork(self, id: int, at: int | None = None, **changes) -> int:
    """A new sample that goes on from token `at` (its end, by default) of an unfinished one, prompt included.

    It shares the pages up to there. changes: fields of the request, such as `seed`; `max_new` counts from `at`.
    Raises KeyError for an id that is not being worked on, ValueError for an `at` outside its answer or a request that
    can never be served.
    """
    row = self._rows[id]
    start = len(row.content) - len(row.tokens)
    at = len(row.content) if at is None else at
    if not start <= at <= len(row.content):
      raise ValueError(f'fork at token {at}; expected {start}..{len(row.content)}')
    said = row.tokens[: at - start]
    left = {'max_new': row.request.max_new - len(said), 'n': 1, 'seed': row.request.seed + row.sample}
    request = dataclasses.replace(row.request, prompt=[*row.request.prompt, *said], **(left | changes))
    self._check(request)
    if row.slot is not None:
      self._scheduler.remember(row)
    if self._images:
      self._images.share(row.content)
    return self._add(request, 0, row.content[:at])

  def so_far(self, id: int) -> Completion:
    """An unfinished sample as it stands between segments. Raises KeyError for an id that is not being worked on."""
    return _completion(self._rows[id], 'unfinished')

  def cancel(self, id: int) -> Completion:
    """Stops a sample and returns what there is. Raises KeyError for an id that is not being worked on."""
    return self._finish(self._rows[id], 'cancelled')

  def update(self, params) -> None:
    """New weights, laid out in place of the old. Unfinished samples go on under them, their caches filled in anew."""
    if self._images:
      self._images.update(params)
    language = params.language if self._images else params
    self._params = None  # the old weights make room first
    self._params = weights.lay(language, self._config, self._place)
    self._scheduler.forget()
    self.version += 1

  def step(self) -> list[Completion]:
    """Fills in prompts, decodes one segment, and returns the samples that are finished."""
    self._scheduler.grow()
    with jax.set_mesh(self._place.mesh):
      self._fill()
      ready = [row for row in self._scheduler.running if row.ready]
      return self._decode(ready) if ready else []

  def run(self) -> list[Completion]:
    """Steps until nothing is left; completions in the order of their ids."""
    done = []
    while not self.idle:
      done += self.step()
    return sorted(done, key=lambda c: c.id)

  def _check(self, request: Request) -> None:
    total, vocab = len(request.prompt) + request.max_new, self._config.vocab
    if total > self._config.max_length:
      raise ValueError(
        f'prompt of {len(request.prompt)} tokens and {request.max_new} new ones exceed the context of '
        f'{self._config.max_length}'
      )
    if not all(0 <= t < vocab for t in request.prompt):
      raise ValueError(f'a prompt token lies outside the vocabulary of {vocab}')
    if request.stop_strings and self._text is None:
      raise ValueError('stop strings need an engine with `text`, a function that decodes token ids')
    if request.allowed is not None and (np.shape(request.allowed) != (vocab,) or not np.any(request.allowed)):
      raise ValueError(f'allowed: shape {np.shape(request.allowed)}; expected a non-empty choice among ({vocab},)')
    if request.images and self._images is None:
      raise ValueError('a request with images needs the weights of internvl')
    self._scheduler.check(len(request.prompt), request.max_new)

  def _add(self, request: Request, sample: int, content: list[int]) -> int:
    watch = StopStrings(self._text, request.stop_strings) if request.stop_strings else None
    row = Row(self._next, request, sample, content, watch)
    self._scheduler.add(row)
    self._rows[row.id] = row
    self._next += 1
    return row.id

  def _finish(self, row: Row, reason: str) -> Completion:
    self._scheduler.leave(row)
    del self._rows[row.id]
    if self._images:
      self._images.release(row.content)
    return _completion(row, reason)

  def _fill(self) -> None:
    """Admits and fills in. Prompts get the time of idle slots, and of half the busy ones before those wait."""
    s = self._scheduler
    busy = sum(row.ready for row in s.running)
    budget = s.segment * (len(s.slots) - busy // 2)
    while True:
      self._copy(s.admit())
      if budget <= 0 and any(row.ready for row in s.running):
        return
      work = s.unfilled(self._chunks[-1])
      if not work:
        return
      self._prefill(work)
      budget -= sum(stop - start for _, start, stop in work)

  def _copy(self, copies: list[tuple[int, int]]) -> None:
    slots, pages = len(self._scheduler.slots), len(self._scheduler.pool.references)
    if copies:
      pairs = np.array(copies + [(0, pages)] * (slots - len(copies)), np.int32)  # at most one a slot
      self._k, self._v = device.copy(self._k, self._v, pairs[:, 0], pairs[:, 1])
      self.stats.copied += len(copies)

  def _prefill(self, work: list[tuple[Row, int, int]]) -> None:
    count = sum(stop - start for _, start, stop in work)
    self._write(*pack.prompts(self._scheduler, work, next(c for c in self._chunks if c >= count)))
    self.stats.prefilled += count
    for row, _, stop in work:
      self._scheduler.filled(row, stop)

  def _write(self, read, content: list[int], positions, page, offset) -> None:
    tokens = np.maximum(np.array(content, np.int32), 0)
    features = self._images.features(content) if self._images else ()
    self._k, self._v = device.prefill(
      self._params, self._k, self._v, read, tokens, positions, page, offset, *features, config=self._config
    )

  def _decode(self, ready: list[Row]) -> list[Completion]:
    s = self._scheduler
    for row in ready:
      if row.request.allowed is not self._masks[row.slot]:
        mask = np.ones(self._config.vocab, bool) if row.request.allowed is None else np.asarray(row.request.allowed)
        self._allowed = device.allow(self._allowed, np.int32(row.slot), mask.astype(bool))
        self._masks[row.slot] = row.request.allowed
    out = self._segment(ready)
    done = []
    for row in ready:
      count = int(out.count[row.slot])
      tokens = out.tokens[row.slot, :count].tolist()
      cut = row.watch.feed(tokens) if row.watch else None
      tokens = tokens[:cut]
      s.append(row, tokens, out.logp[row.slot, : len(tokens)].tolist(), self.version, count)
      self.stats.decoded += len(tokens)
      reason = (
        'stop_string'
        if cut is not None
        else 'stop'
        if tokens[-1] in row.request.stops
        else 'length'
        if not row.remaining
        else None
      )
      if reason:
        done.append(self._finish(row, reason))
    return done

  def _segment(self, ready: list[Row]) -> device.Segment:
    """Decodes, and reads back what was sampled: host arrays."""
    read, slots = pack.segment(self._scheduler, ready)
    self._k, self._v, out = device.decode(
      self._params, self._k, self._v, read, slots, self._allowed, config=self._config, segment=self._scheduler.segment
    )
    return jax.tree.map(mesh_lib.to_local, out)

  def _warm(self) -> None:
    """Compiles every program on nothing."""
    slots, pages = len(self._scheduler.slots), len(self._scheduler.pool.references)
    for room in self._chunks:
      self._write(*pack.prompts(self._scheduler, [], room))
    if self._images:
      self._images.warm()
    self._allowed = device.allow(self._allowed, np.int32(0), np.ones(self._config.vocab, bool))
    self._k, self._v = device.copy(self._k, self._v, np.zeros(slots, np.int32), np.full(slots, pages, np.int32))
    self._segment([])
