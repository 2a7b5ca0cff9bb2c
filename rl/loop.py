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
from rl import policy as policies
from rl import report
from rl.configs import Supervision, Training, check_warmup
from rl.devices import meshes
from rl.evaluate import Evaluation, evaluate
from rl.learning import objective
from rl.learning.reinforce import Progress, Stage, Updater, Updating, reinforce
from rl.learning.supervised import Demonstrations, solutions, supervise
from rl.learning.update import Pass, optimizer
from rl.losses import RULES, Rule
from rl.policy import ANY_SLOTS, Draw, Layout, Policy, Slots
from rl.rewards import Scorer
from rl.rollout import Flat, Plan, Sampler
from rl.rollout.collect import Collector, Source
from rl.rollout.dynamic import mixed_groups, unsolved
from rl.rollout.groups import Select, everything
from rl.rollout.sources import Ahead, InTurn
from rl.tasks import Task, task_of

ROUNDS = 10  # of dynamic sampling, before a rollout takes the groups that there are


def run(
  policy: Any,
  task: Task | str | Sequence,
  *,
  workdir: Any,
  rewards: Any = None,
  rollout: Plan | Sequence[Stage] | None = None,
  advantage: str | None = None,
  rule: Rule | str | None = None,
  steps: int = 100,
  max_new: int = 16,
  layout: Layout = 'shared',
  slots: Slots = ANY_SLOTS,
  select: Select | None = None,
  evaluation: Evaluation | None = None,
  supervision: Supervision | None = None,
  demonstrations: Demonstrations | None = None,
  offline: Callable | None = None,
  page: report.Page | None = None,
  claim: Any = None,
  config: Training | None = None,
  **options: Any,
) -> report.Outcome:
  """Trains a policy by reward; leaves curve, report, metrics and checkpoint in `workdir`. Continues a stopped run.

  policy: the folder of a checkpoint, 'tiny' or 'tiny-text' (from scratch), or (`Policy`, float32 weights).
  task: a `Task`, the name of one, or a sequence of questions.
  rewards: as `rl.rewards.resolve` takes them, such as `lambda query, response: float('7' in response)`; None: those of
    the task.
  rollout: a plan, or stages with one each; None: `steps` rollouts of `config.group` responses to each prompt.
  advantage, rule: as in `Training`; a rule may be a name in `rl.losses.RULES`.
  max_new: tokens of a response, at most. layout, slots: see `rl.policy.layouts`; slots that are not 0 are fixed.
  select: which trajectories of a rollout are trained on.
  supervision, demonstrations: a phase of imitation first, and what it imitates, by default the task's solutions.
  offline: a phase between the two, called as `rl.preference.offline.offline` is.
  claim: what identifies the run, kept in config.json; a folder with another one is refused.
  config, options: a `Training`, and changes to its fields.
  Raises ValueError for what cannot be, before any work.
  """
  config = training(config, options, advantage, rule)
  objective.check(config.rule, config.advantage, length=config.length, max_new=max_new)
  workdir, task = pathlib.Path(workdir), task_of(task)
  claim = {'steps': steps, 'max_new': max_new} | dataclasses.asdict(config) if claim is None else claim
  place, home = meshes(config)
  policy, weights = policy if isinstance(policy, tuple) else policies.load(policy, place, seed=config.seed)
  source = Source(task, policy, config.seed, prompt_limit(policy, config, max_new, slots.prompt))
  score = Pass(policy, dtype=config.dtype, remat=config.remat)
  if demonstrations is None:
    examples = solutions(source, max_new)
    demonstrations = Demonstrations(examples, slots=slots._replace(response=max_new), save_every=config.save_every)
  if supervision is not None:
    weights = supervise(score, weights, demonstrations, supervision, workdir, place, claim)
  sampler = Sampler(policy, weights, config.engine, home, config.dtype)
  evaluation = evaluation or Evaluation(Flat(Draw(max_new, temperature=0.0), 1))
  rollout = Flat(config.draw(max_new), config.group, config.seed) if rollout is None else rollout
  stages = [Stage(steps, rollout)] if callable(rollout) else list(rollout)
  score = dataclasses.replace(score, temperature=config.temperature)
  updates = config.updates * sum(stage.steps for stage in stages)
  check_warmup('optim', config.optim, updates)
  updating = updating_of(config, score, updates, layout, slots._replace(response=0 if layout == 'rows' else max_new))
  with Scorer(rewards or task.rewards, source.query(0), seconds=config.reward_seconds) as scorer:
    judge = functools.partial(evaluate, sampler, source, scorer, evaluation)
    before = judge(evaluation.queries)
    logging.info('held-out %s before reinforcement learning: %s', before.measure, before)
    only = None
    if offline is not None:
      weights, only = offline(weights, sampler, source, scorer, workdir, place)
    collector = collector_of(config, scorer, select, max_new)
    run = Run(workdir, claim, every=config.save_every, show=('reward', 'entropy'))
    updater = Updater(updating, weights, place)
    weights = _learn(updater, stages, sampler, source, collector, Progress(only), run, judge, evaluation, config, place)
    sampler.update(weights)
    after = judge(evaluation.queries)
  outcome = report.Outcome(policy, weights, before, after, config.seed)
  report.finish(outcome, workdir, place, dtype=config.dtype, page=page or report.Page())
  return outcome


def training(config: Training | None, options: dict, advantage: str | None, rule: Rule | str | None) -> Training:
  """The numbers of a run. Raises ValueError for a field that does not exist, and as `Training` does."""
  config = Training() if config is None else config
  known = {f.name for f in dataclasses.fields(config)}
  unknown = sorted(options.keys() - known)
  if unknown:
    raise ValueError(f'{", ".join(unknown)}: expected fields of {type(config).__name__}: {", ".join(sorted(known))}')
  if isinstance(rule, str) and rule not in RULES:
    raise ValueError(f'rule={rule!r}: expected one of {", ".join(RULES)}, or a Rule')
  if rule is not None:
    options = options | {'rule': RULES[rule] if isinstance(rule, str) else rule}
  if advantage is not None:
    options = options | {'advantage': advantage}
  return dataclasses.replace(config, **options)


def prompt_limit(policy: Policy, config: Training, max_new: int, given: int) -> int:
  """Tokens that a prompt may have: as given, and such that a response fits the context and the engine's cache."""
  room = min(policy.max_length, config.engine.pages * config.engine.page_size) - max_new
  if room < 1:
    raise ValueError(
      f'responses of {max_new} tokens leave no room for a prompt in a context of {policy.max_length} and an engine of '
      f'{config.engine.pages} pages of {config.engine.page_size}'
    )
  return min(given or room, room)


def updating_of(config: Training, score: Pass, updates: int, layout: Layout, slots: Slots) -> Updating:
  """How rollouts become updates. An update has its share of the prompts, or of their trajectories in rows."""
  prompts = config.prompts // config.updates
  return Updating(
    score=score,
    rule=config.rule,
    advantage=config.advantage,
    tx=optimizer(score.policy, config.optim, updates),
    size=prompts * config.group if layout == 'rows' else prompts,
    layout=layout,
    slots=slots,
    accumulate=config.accumulate,
    drop_cut=config.length.drop_cut,
    trainable=config.trainable,
    ema=config.ema,
    show_average=config.export == 'average',
  )


def collector_of(config: Training, scorer: Scorer, select: Select | None, max_new: int) -> Collector:
  """What makes the rollouts. Raises ValueError when two selections are asked for."""
  if config.dynamic and select is not None:
    raise ValueError('dynamic=True selects the mixed groups: expected no other `select`')
  return Collector(
    scorer,
    config.prompts,
    select=mixed_groups if config.dynamic else select or everything,
    rounds=ROUNDS if config.dynamic else 1,
    length=config.length,
    limit=max_new,
  )


def _learn(
  updater: Updater,
  stages: Sequence[Stage],
  sampler: Sampler,
  source: Source,
  collector: Collector,
  progress: Progress,
  run: Run,
  judge: Callable,
  evaluation: Evaluation,
  config: Training,
  place: mesh.Mesh,
) -> Any:
  """The weights to export, after the reinforcement learning phase."""
  ends = np.cumsum([stage.steps for stage in stages])
  drawn = lambda: dataclasses.replace(source, only=progress.only)

  def collect(step: int, start: int):
    plan = stages[int(np.searchsorted(ends, step, 'right'))].plan
    return collector(sampler, plan, drawn(), step=step, start=start)

  def look() -> dict:
    seen = judge(evaluation.glance, sampled=False)
    return {f'heldout_{seen.measure}': np.float32(seen.accuracy)}

  last, average = reinforce(
    updater,
    stages,
    (Ahead if config.ahead else InTurn)(sampler, collect),
    progress,
    run,
    place,
    hard=lambda stage: unsolved(sampler, drawn(), collector.scorer, stage.tries, stage.tried),
    look=look,
    eval_every=config.eval_every,
  )
  return average if config.export == 'average' else last
