"""`run`: the one loop, for any policy, task, rollout plan, reward, advantage and loss."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from core import mesh
from core.training.run import Run
from rl import advantages, report
from rl import policy as policies
from rl.advantages import Advantage
from rl.claim import claim_of
from rl.configs import Supervision, Training
from rl.devices import meshes
from rl.evaluate import Evaluation, Result, evaluate
from rl.learning import objective
from rl.learning.reinforce import Updater, Updating, reinforce
from rl.learning.schedule import Progress, Schedule, Stage
from rl.learning.supervised import Demonstrations, solutions, supervise
from rl.learning.update import Pass, optimizer
from rl.losses import RULES, Rule
from rl.policy import ANY_SLOTS, Draw, Layout, Policy, Slots
from rl.rewards import Scorer
from rl.rollout import Flat, Plan, Sampler
from rl.rollout.collect import Collected, Collector, QuerySource
from rl.rollout.dynamic import mixed_groups, unsolved
from rl.rollout.groups import Select, everything
from rl.rollout.pipeline import Ahead, Sequential
from rl.tasks import Task, task_of

ROUNDS = 10  # of dynamic sampling, before a rollout takes the groups that it has


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Options of a run that are not numbers of `Training`; each field is an argument of `run`.

  steps: rollouts, unless stages are given. tokens: sampled ones after which the run ends sooner; 0: no limit. max_new:
  tokens of a response, at most. layout, slots: see `rl.policy.layouts`; slots that are not 0 are fixed. rows:
  trajectories of an update in rows; 0: all that are asked for. select: which trajectories of a rollout are trained on.
  evaluation: how held-out queries are answered; None: greedily. supervision, demonstrations: a phase of imitation
  first, and what it imitates, by default the task's solutions. offline: a phase between imitation and reward, called
  with (weights, sampler, source, scorer, workdir, place), such as `rl.preference.offline.offline`. page: how the report
  shows responses. claim: what identifies the run, kept in config.json; a folder with another one is refused;
  None: its numbers, advantage, rewards and task (`rl.claim`).
  """

  steps: int = 100
  tokens: int = 0
  max_new: int = 16
  layout: Layout = 'shared'
  slots: Slots = ANY_SLOTS
  rows: int = 0
  select: Select | None = None
  evaluation: Evaluation | None = None
  supervision: Supervision | None = None
  demonstrations: Demonstrations | None = None
  offline: Callable | None = None
  page: report.Page | None = None
  claim: Any = None

  @property
  def response_slots(self) -> Slots:
    """The slots of an update: responses of `max_new` tokens, unless a row holds a whole conversation."""
    return self.slots._replace(response=0 if self.layout == 'rows' else self.max_new)


def run(
  policy: Any,
  task: Task | str | Sequence,
  *,
  workdir: Any,
  rewards: Any = None,
  rollout: Plan | Sequence[Stage] | None = None,
  advantage: str | Advantage | Callable | None = None,
  rule: Rule | str | None = None,
  config: Training | None = None,
  **options: Any,
) -> report.Outcome:
  """Trains a policy by reward; leaves curve, report, metrics and checkpoint in `workdir`. Continues a stopped run.

  policy: the folder of a checkpoint, 'tiny' or 'tiny-text' (from scratch), or (`Policy`, float32 weights). task: a
  `Task`, the name of one, or a sequence of questions. rewards: as `rl.rewards.resolve` takes them, such as
  `lambda query, response: float('7' in response)`; None: the task's. rollout: a plan, or stages with one each; None:
  `steps` rollouts of `config.group` responses to each prompt. advantage: as `rl.advantages.resolve` takes it. rule: a
  `Rule`, or a name in `rl.losses.RULES`. None for either: that of `config`. options: fields of `RunOptions`, and of
  `Training` in place of those of `config`.
  Raises ValueError for settings that contradict each other, before any work.
  """
  config, extra = settings(config, options, advantage, rule)
  workdir, (place, home) = pathlib.Path(workdir), meshes(config)
  policy, weights = policy if isinstance(policy, tuple) else policies.load(policy, place, seed=config.seed)
  limit = prompt_limit(policy, config, extra.max_new, extra.slots.prompt)
  source = QuerySource(task_of(task), policy, config.seed, limit)
  if rewards is None:
    rewards = source.task.rewards
  if extra.claim is None:
    claim = claim_of(config, source.task, rewards, steps=extra.steps, max_new=extra.max_new)
    extra = dataclasses.replace(extra, claim=claim)
  schedule = schedule_of(rollout, config, extra)
  updating = updating_of(config, policy, schedule.steps, extra.layout, extra.response_slots)
  updating = dataclasses.replace(updating, kinds=schedule.kinds, size=extra.rows or updating.size)
  weights = _imitate(weights, source, config, extra, workdir, place)
  sampler = Sampler(policy, weights, config.engine, home, config.dtype)
  with Scorer(rewards, source.query(0), seconds=config.reward_seconds) as scorer:
    rollouts = Rollouts(sampler, source, collector_of(config, scorer, extra), schedule, Progress())
    weights, before, after = _rewarded(weights, updating, rollouts, config, extra, workdir, place)
  glance = extra.evaluation.glance
  outcome = report.Outcome(policy, weights, before, after, config.seed, glance)
  report.finish(outcome, workdir, place, dtype=config.dtype, page=extra.page or report.Page())
  return outcome


def settings(
  config: Training | None, options: dict, advantage: Any, rule: Rule | str | None
) -> tuple[Training, RunOptions]:
  """The numbers of a run and its other options, all checked. Raises ValueError for a bad value or combination."""
  names = {f.name for f in dataclasses.fields(RunOptions)}
  extra = RunOptions(**{name: value for name, value in options.items() if name in names})
  numbers = {name: value for name, value in options.items() if name not in names}
  config = training(config, numbers, advantage, rule)
  objective.check(config.rule, config.advantage, length=config.length, max_new=extra.max_new)
  if config.dynamic and extra.select is not None:
    raise ValueError('dynamic=True selects the mixed groups: expected no other `select`')
  if extra.evaluation is None:
    greedy = Flat(Draw(extra.max_new, temperature=0.0), 1)
    extra = dataclasses.replace(extra, evaluation=Evaluation(greedy))
  return config, extra


def training(config: Training | None, options: dict, advantage: Any, rule: Rule | str | None) -> Training:
  """The numbers of a run. Raises ValueError for a field that does not exist, and as `Training` does."""
  if config is None:
    config = Training()
  known = {f.name for f in dataclasses.fields(config) if f.init}
  unknown = sorted(options.keys() - known)
  if unknown:
    raise ValueError(f'{", ".join(unknown)}: expected fields of {type(config).__name__}: {", ".join(sorted(known))}')
  if isinstance(rule, str):
    if rule not in RULES:
      raise ValueError(f'rule={rule!r}: expected one of {", ".join(RULES)}, or a Rule')
    rule = RULES[rule]
  given = {'rule': rule, 'advantage': advantage}
  changes = options | {name: value for name, value in given.items() if value is not None}
  return dataclasses.replace(config, **changes)


def prompt_limit(policy: Policy, config: Training, max_new: int, given: int) -> int:
  """Tokens that a prompt may have: as given, and such that a response fits the context and the engine's cache."""
  cache = config.engine.pages * config.engine.page_size
  longest = min(policy.max_length, cache) - max_new
  if longest < 1:
    raise ValueError(
      f'responses of {max_new} tokens leave no space for a prompt in a context of {policy.max_length} and an engine of '
      f'{config.engine.pages} pages of {config.engine.page_size}'
    )
  return min(given or longest, longest)


def schedule_of(rollout: Plan | Sequence[Stage] | None, config: Training, extra: RunOptions) -> Schedule:
  """The stages of a run."""
  if rollout is None:
    rollout = Flat(config.draw(extra.max_new), config.group, config.seed)
  return Schedule([Stage(extra.steps, rollout)] if callable(rollout) else rollout)


def updating_of(config: Training, policy: Policy, steps: int, layout: Layout, slots: Slots) -> Updating:
  """How `steps` rollouts become updates. An update has its share of the prompts, or of their trajectories in rows."""
  prompts = config.prompts // config.updates
  return Updating(
    score=Pass(policy, config.temperature, config.dtype, config.remat),
    rule=config.rule,
    advantage=advantages.resolve(config.advantage),
    tx=optimizer(policy, config.optim, config.updates * steps),
    size=prompts * config.group if layout == 'rows' else prompts,
    layout=layout,
    slots=slots,
    accumulate=config.accumulate,
    drop_cut=config.length.drop_cut,
    trainable=config.trainable,
    ema=config.ema,
    show_average=config.export == 'average',
  )


def collector_of(config: Training, scorer: Scorer, extra: RunOptions) -> Collector:
  """What makes the rollouts."""
  return Collector(
    scorer,
    config.prompts,
    select=mixed_groups if config.dynamic else extra.select or everything,
    rounds=ROUNDS if config.dynamic else 1,
    length=config.length,
    limit=extra.max_new,
  )


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """The rollouts of a run by their number; `progress` says which queries they draw from."""

  sampler: Sampler
  source: QuerySource
  collector: Collector
  schedule: Schedule
  progress: Progress

  def collect(self, step: int, start: int) -> Collected:
    """Rollout `step`, of the queries from number `start` on, sampled by the sampler's weights."""
    plan = self.schedule.stage(step).plan
    return self.collector(self.sampler, plan, self._drawn, step=step, start=start)

  def hard(self, stage: Stage) -> list[int]:
    """Numbers of the queries that are not solved in every try of a stage."""
    return unsolved(self.sampler, self._drawn, self.collector.scorer, stage.tries, stage.tried)

  @property
  def _drawn(self) -> QuerySource:
    return dataclasses.replace(self.source, only=self.progress.only)


def _imitate(
  weights: Any, source: QuerySource, config: Training, extra: RunOptions, workdir: pathlib.Path, place: mesh.Mesh
) -> Any:
  """The weights after the supervised phase, if there is one."""
  if extra.supervision is None:
    return weights
  shown = extra.demonstrations
  if shown is None:
    slots = extra.slots._replace(response=extra.max_new)
    shown = Demonstrations(solutions(source, extra.max_new), slots=slots, save_every=config.save_every)
  score = Pass(source.policy, dtype=config.dtype, remat=config.remat)
  logging.info('warm-up: %d steps of supervised learning; the first one compiles', extra.supervision.steps)
  return supervise(score, weights, shown, extra.supervision, workdir, place, extra.claim)


def _rewarded(
  weights: Any,
  updating: Updating,
  rollouts: Rollouts,
  config: Training,
  extra: RunOptions,
  workdir: pathlib.Path,
  place: mesh.Mesh,
) -> tuple[Any, Result, Result]:
  """(weights after the offline phase and reinforcement learning, held-out results before them and after)."""
  sampler = rollouts.sampler
  source = rollouts.source
  scorer = rollouts.collector.scorer
  judge = functools.partial(evaluate, sampler, source, scorer, extra.evaluation)
  logging.info('%d held-out questions before reinforcement learning; sampling compiles', extra.evaluation.queries)
  before = judge(extra.evaluation.queries)
  logging.info('held-out %s before reinforcement learning: %s', before.measure, before)
  if extra.offline is not None:
    weights, rollouts.progress.only = extra.offline(weights, sampler, source, scorer, workdir, place)

  def look() -> dict:
    seen = judge(extra.evaluation.glance, sampled=False)
    measured = {seen.measure: seen.accuracy, **extra.evaluation.further(seen)}
    return {f'heldout_{name}': np.float32(value) for name, value in measured.items()}

  record = Run(workdir, extra.claim, every=config.save_every, show=('reward', 'entropy'))
  timing = Ahead if config.ahead else Sequential
  steps = rollouts.schedule.steps
  responses = config.prompts * config.group
  logging.info('reinforcement learning: %d rollouts of %d responses; the first one compiles', steps, responses)
  last, average = reinforce(
    Updater(updating, weights, place),
    rollouts.schedule,
    timing(sampler, rollouts.collect),
    rollouts.progress,
    record,
    place,
    hard=rollouts.hard,
    look=look,
    eval_every=config.eval_every,
    tokens=extra.tokens,
  )
  weights = average if config.export == 'average' else last
  sampler.update(weights)
  logging.info('the held-out questions again, after reinforcement learning')
  return weights, before, judge(extra.evaluation.queries)
