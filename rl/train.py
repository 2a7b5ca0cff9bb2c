"""Reinforcement learning by reward: of a language model, a vision-language model or a text-to-image model.

  python -m rl.train --workdir=runs/digits [--config=digits --config.steps=200 …]

A tiny InternVL learns from scratch, on real handwritten digits, to answer questions about a pair of them: a short
supervised warm-up, then exact-match reward with GRPO's advantage and DAPO's loss. The workdir ends with metrics.jsonl,
TensorBoard events, the reward curve, a report with sample responses, and a checkpoint folder in the format of the
model's family. The same command continues a run that was stopped.

`--config=pref_grpo` trains a small text-to-image flow model instead, by comparisons of its images, and
`--config=pref_grpo_folder` a published one (docs/pref_grpo.md).
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

from core.launch import job as launch
from core.training.record import replace
from rl import configs
from rl import policy as policies
from rl.configs import Config
from rl.devices import meshes
from rl.evaluate import Evaluation, Result
from rl.flow import configs as flow_configs
from rl.flow.published.train import train as train_published
from rl.flow.train import train as train_flow
from rl.learning import varied
from rl.learning.supervised import Demonstrations, solutions
from rl.loop import prompt_limit, run
from rl.plan import plan_step
from rl.policy import Draw, Policy, Slots
from rl.preference.offline import offline
from rl.report import Outcome
from rl.rollout import Flat, Plan, svs, tree, vision_sr1
from rl.rollout.collect import QuerySource
from rl.tasks import TASKS, Task, from_files

__all__ = ['CONFIGS', 'Config', 'main', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads

CONFIGS = {**configs.CONFIGS, **flow_configs.CONFIGS}


def main(config: Config | flow_configs.FlowTraining, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns the contents of results.json."""
  if isinstance(config, flow_configs.FlowConfig):
    return train_flow(config, workdir).results
  if isinstance(config, flow_configs.PublishedConfig):
    return train_published(config, workdir).results
  place, _ = meshes(config)
  policy, weights = policies.load(config.model, place, seed=config.seed)
  task = task_of(config)
  sr1 = config.sr1.generation != 'off'
  separate = sr1 and config.sr1.published.targets == 'y2'  # each second pass has its own prompt
  outcome = run(
    (policy, weights),
    task,
    rewards=config.sr1.published.reward if sr1 else config.reward,
    advantage=config.sr1.published.advantage if sr1 else None,
    workdir=workdir,
    steps=config.steps,
    tokens=config.tokens,
    max_new=config.max_new,
    slots=Slots(config.prompt_length, 0, 0, config.tiles),
    layout='rows' if separate else config.layout,
    rows=2 * config.prompts // config.updates * config.group if separate else 0,
    evaluation=evaluation_of(config),
    rollout=plan_of(config),
    supervision=config.warmup,
    demonstrations=demonstrations_of(config, policy, task),
    offline=_offline_phase(config),
    claim=config,
    config=config,
  )
  return outcome.results | (shortcuts(outcome, workdir) if sr1 else {})


def task_of(config: Config) -> Task:
  """The queries of a config, with the answer instruction of its recipe."""
  task = from_files(config.data, config.heldout, 'boxed_and_format') if config.data else TASKS[config.task]
  asked = task.query
  if config.sr1.generation != 'off':
    last = config.sr1.published.image_last
    change = functools.partial(vision_sr1.instructed, instruction=config.sr1.instruction, image_last=last)
  elif config.svs.instruction:
    change = functools.partial(svs.instructed, instruction=config.svs.instruction)
  else:
    return task
  return dataclasses.replace(task, query=lambda split, seed, index: change(asked(split, seed, index)))


def greedy_plan(config: Config) -> Plan:
  """How held-out queries are answered; with the second pass, if there is one."""
  draw = Draw(config.max_new, temperature=0.0)
  if config.sr1.generation == 'off':
    return Flat(draw, 1)
  settings = dataclasses.replace(config.sr1, generation='c2', targets='own', first=config.sr1.instruction)
  return vision_sr1.VisionSr1(draw, settings, 1)


def evaluation_of(config: Config) -> Evaluation:
  """How held-out queries are answered; Vision-SR1 also judges descriptions."""
  count = config.eval_queries
  evaluation = Evaluation(greedy_plan(config), queries=count, glance=min(count, Evaluation.glance))
  if config.eval_samples:
    evaluation = dataclasses.replace(evaluation, more=Flat(Draw(config.max_new), config.eval_samples))
  if config.sr1.generation != 'off':
    evaluation = dataclasses.replace(evaluation, further=_self_judged)
  return evaluation


def _self_judged(result: Result) -> dict[str, float]:
  return vision_sr1.self_judged(result.queries, result.responses)


def shortcuts(outcome: Outcome, workdir: pathlib.Path) -> dict:
  """Self-judged shortcut rates, and how often a description has the answer in it; also written to shortcuts.json."""
  found = {}
  for name, result in (('before', outcome.before), ('after', outcome.after)):
    found[name] = _self_judged(result)
  replace(workdir / 'shortcuts.json', json.dumps(found, indent=2) + '\n')
  return {'shortcuts': found}


def plan_of(config: Config) -> Plan | None:
  """The rollout plan of a config; None for flat groups."""
  if config.sr1.generation != 'off':
    return vision_sr1.VisionSr1(config.draw(config.max_new), config.sr1, config.group, config.seed)
  if config.svs.variants:
    return svs.Svs(config.draw(config.max_new), config.svs, config.group, config.seed)
  if config.tree.segment:
    return tree.Tree(config.draw(config.max_new), config.tree, config.group, config.seed)
  return None


def demonstrations_of(config: Config, policy: Policy, task: Task) -> Demonstrations:
  """What the supervised phase imitates: solutions, and with some recipes variants or second passes."""
  limit = prompt_limit(policy, config, config.max_new, config.prompt_length)
  source = QuerySource(task, policy, config.seed, limit)
  if config.sr1.generation != 'off' and not config.data:
    examples = varied.second_passes(source, config.sr1, config.max_new)
  elif config.warmup.variants:
    examples = varied.demonstrations(source, config.svs.template, config.max_new)
  else:
    examples = solutions(source, config.max_new)
  slots = Slots(config.prompt_length, config.max_new, 0, config.tiles)
  return Demonstrations(examples, slots=slots, save_every=config.save_every)


def _offline_phase(config: Config) -> Callable | None:
  """The phase between imitation and reward, or None."""
  if not config.offline.queries:
    return None
  return functools.partial(
    offline, settings=config.offline, max_new=config.max_new, dtype=config.dtype, remat=config.remat
  )


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='digits')
