"""Multi-turn rollouts with tools on `core.engine`: many trajectories in flight, tools run between segments.

A turn is one request whose prompt is all token ids so far, as sampled and never tokenised again. While its tool runs
the trajectory holds no slot; its keys and values stay in the engine's prefix cache and the next turn finds them there.
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Sequence

from agents.rollout.placement import Placement
from agents.rollout.protocol import Protocol
from agents.rollout.tools import Runner
from agents.rollout.trajectory import Bounds, Conversation
from core.engine import Engine, Request
from rl.policy import Draw


def rollout(
  engines: Sequence[Engine],
  prompts: Sequence[Sequence[int]],
  seeds: Sequence[int],
  *,
  protocol: Protocol,
  runner: Runner,
  bounds: Bounds,
  draw: Draw | None = None,
  lag: int | None = None,
) -> list[Conversation]:
  """One trajectory for each prompt and seed, in their order.

  A conversation's tokens depend on its prompt, its seed, the weights and what the tools answer. draw: how a turn is
  sampled, by default at temperature 1; its length is bounded by `bounds`. lag: None takes responses
  as they come. A number takes them that many engine steps after the call, waiting if need be, so that the same calls
  meet the same batches in every run, bit for bit.
  Raises ValueError when a trajectory could not fit the context or any engine's cache; the engines are left idle.
  """
  draw = draw or Draw(bounds.response)
  return _Rollout(engines, protocol, runner, bounds, draw, lag).run(prompts, seeds)


@dataclasses.dataclass(frozen=True)
class _Waiting:
  """A trajectory whose tools run."""

  due: int
  engine: int
  trajectory: Conversation
  future: concurrent.futures.Future


class _Rollout:
  """The state of one call of `rollout`."""

  def __init__(self, engines, protocol, runner, bounds, draw, lag):
    if not engines or not all(e.idle for e in engines):
      raise ValueError('rollout: expected at least one engine, and all of them idle')
    if lag is not None and lag < 1:
      raise ValueError(f'lag={lag}: expected 1 or more, or none')
    self._engines = list(engines)
    self._protocol = protocol
    self._runner = runner
    self._bounds = bounds
    self._draw = draw
    self._lag = lag
    self._sizes = [e.scheduler.page_size for e in engines]
    pages = [len(engine.scheduler.pool.references) for engine in engines]
    self._placement = Placement([count * size for count, size in zip(pages, self._sizes)])
    self._decoding: list[dict[int, Conversation]] = [{} for _ in engines]
    self._waiting: collections.deque[_Waiting] = collections.deque()
    self._step = 0

  def run(self, prompts, seeds) -> list[Conversation]:
    """All trajectories, finished."""
    started = [Conversation(prompt=list(p), seed=int(seed)) for p, seed in zip(prompts, seeds, strict=True)]
    for t in started:
      self._check(t)
    queue = collections.deque(started)
    try:
      with concurrent.futures.ThreadPoolExecutor(len(self._engines)) as threads:
        while queue or self._waiting or any(self._decoding):
          self._admit(queue)
          self._collect()
          self._advance(threads)
    finally:
      for engine, rows in zip(self._engines, self._decoding):
        for id in rows:
          engine.cancel(id)
    return started

  def _check(self, t: Conversation) -> None:
    if self._need(t) > max(self._placement.capacities):
      raise ValueError(
        f'a rollout of up to {self._need(t)} tokens does not fit a cache of {max(self._placement.capacities)}'
      )

  def _need(self, t: Conversation) -> int:
    """Tokens of cache that a trajectory may come to take, in whole pages."""
    size = max(self._sizes)
    return -(-(len(t.prompt) + self._bounds.response) // size) * size

  def _admit(self, queue: collections.deque) -> None:
    while queue and (engine := self._placement.place(self._need(queue[0]))) is not None:
      self._submit(engine, queue.popleft())

  def _submit(self, engine: int, t: Conversation) -> None:
    request = Request(
      [*t.prompt, *t.ids],
      t.left(self._bounds),
      stops=(self._protocol.stop_id,),
      seed=t.seed,
      temperature=self._draw.temperature,
      top_p=self._draw.top_p,
      top_k=self._draw.top_k,
      min_p=self._draw.min_p,
    )
    self._decoding[engine][self._engines[engine].submit(request)[0]] = t

  def _collect(self) -> None:
    """Takes the responses that are due, and sends their trajectories on."""
    for w in self._due():
      w.trajectory.take(w.future.result(), self._protocol, self._bounds)
      if w.trajectory.stop:
        self._placement.release(w.engine, self._need(w.trajectory))
      else:
        self._submit(w.engine, w.trajectory)

  def _due(self) -> list[_Waiting]:
    idle = not any(self._decoding)
    if self._lag is None:
      if idle and self._waiting:
        concurrent.futures.wait([w.future for w in self._waiting], return_when=concurrent.futures.FIRST_COMPLETED)
      due = [w for w in self._waiting if w.future.done()]
    else:
      if idle and self._waiting:
        self._step = max(self._step, self._waiting[0].due)
      due = [w for w in self._waiting if w.due <= self._step]
    if due:
      taken = set(map(id, due))
      self._waiting = collections.deque(w for w in self._waiting if id(w) not in taken)
    return due

  def _advance(self, threads: concurrent.futures.Executor) -> None:
    """One segment of every engine that has work; finished turns start their tools."""
    busy = [i for i, rows in enumerate(self._decoding) if rows]
    step = lambda i: self._engines[i].step()
    done = [step(busy[0])] if len(busy) == 1 else list(threads.map(step, busy))
    self._step += 1
    for i, completions in zip(busy, done):
      for c in completions:
        t = self._decoding[i].pop(c.id)
        if calls := t.hear(c.tokens, c.logp, self._protocol, self._bounds):
          future = self._runner.start(str(t.seed), calls)
          self._waiting.append(_Waiting(self._step + (self._lag or 0), i, t, future))
        else:
          self._placement.release(i, self._need(t))
