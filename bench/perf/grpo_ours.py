"""Our side of `bench.perf.grpo`: the parts that `rl.run` joins, one step at a time."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from core.engine import EngineSize
from core.training.optim import Optim
from rl import loop, policy
from rl.configs import Training
from rl.devices import meshes
from rl.learning.reinforce import Updater
from rl.query import Query
from rl.rewards import Reward, Scorer
from rl.rollout import Flat, Sampler
from rl.rollout.collect import QuerySource
from rl.tasks import Task

PAGE = 16  # tokens of a page of the engine's cache


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run: of steps of `prompts` conversations and `group` responses of at most `max_new` tokens to each."""

  folder: str
  conversations: Sequence[list[dict]]
  prompts: int
  group: int
  max_new: int
  accumulate: int
  lr: float
  reward: Callable[[Query, str], float]

  @property
  def steps(self) -> int:
    """Steps until every conversation was answered."""
    return len(self.conversations) // self.prompts

  def training(self) -> Training:
    """As of a run's configuration, with an engine that has a slot for every response."""
    rows = self.prompts * self.group
    pages = rows * (2 + self.max_new // PAGE) + 64  # a tail each, and the prompts
    return Training(
      prompts=self.prompts,
      group=self.group,
      accumulate=self.accumulate,
      optim=Optim('adamw', lr=self.lr, schedule='constant'),
      engine=EngineSize(slots=rows, pages=pages, page_size=PAGE, segment=8),
    )


class Run:
  """Steps of a plan. `trajectory`: the first one of the last rollout."""

  def __init__(self, plan: Plan):
    given = {'steps': plan.steps, 'max_new': plan.max_new}
    config, options = loop.settings(plan.training(), given, None, None)
    self._place, home = meshes(config)
    reads, weights = policy.load(plan.folder, self._place)
    limit = loop.prompt_limit(reads, config, plan.max_new, 0)
    ask = Task(lambda split, seed, index: Query(plan.conversations[index]))
    self._source = QuerySource(ask, reads, 0, limit)
    self._sampler = Sampler(reads, weights, config.engine, home)
    scorer = Scorer(Reward(plan.reward, direct=True), self._source.query(0))
    self._collect = loop.collector_of(config, scorer, options)
    self._answer = Flat(config.draw(plan.max_new), plan.group)
    updating = loop.updating_of(config, reads, plan.steps, options.layout, options.response_slots)
    self._updater = Updater(updating, weights, self._place)
    self._train = self._updater.first
    self._step = 0
    self._next = 0
    self.trajectory: Any = None

  def step(self) -> dict[str, float]:
    """CPU seconds of a rollout and of its update, and sampled tokens."""
    start = time.process_time()
    with jax.set_mesh(self._place):
      self._sampler.update(self._updater.whole(self._train))
      rollout = self._collect(self._sampler, self._answer, self._source, step=self._step, start=self._next)
      sampled = time.process_time()
      self._train, _, metrics = self._updater(self._train, (), rollout)
      jax.block_until_ready((self._train, metrics))
    end = time.process_time()
    self._step += 1
    self._next = rollout.next
    every = [t for group in rollout.groups for t in group.trajectories]
    self.trajectory = every[0]
    return {'rollout s': sampled - start, 'update s': end - sampled, 'tokens': sum(len(t.tokens) for t in every)}
