"""Reinforcement learning by reward: of a language model, a vision-language model or a text-to-image model.

  python -m rl.train --workdir=runs/digits [--config=digits --config.steps=200 …]

A tiny InternVL learns from scratch, on real handwritten digits, to answer questions about a pair of them: a short
supervised warm-up, then exact-match reward with GRPO's advantage and DAPO's loss. The workdir ends with metrics.jsonl,
TensorBoard events, the reward curve, a report with sample responses, and a checkpoint folder in the format of the
model's family. The same command continues a run that was stopped.

`--config=pref_grpo` trains a small text-to-image flow model instead, by comparisons of its images (docs/pref_grpo.md).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from core.launch import job as launch
from rl import configs
from rl import policy as policies
from rl.configs import Config
from rl.devices import meshes
from rl.evaluate import Evaluation
from rl.flow import configs as flow_configs
from rl.flow.train import train as train_flow
from rl.learning import varied
from rl.learning.supervised import Demonstrations
from rl.loop import prompt_limit, run
from rl.plan import plan_step
from rl.policy import ANY_SLOTS, Draw, Policy, Slots
from rl.preference.offline import offline
from rl.report import Page
from rl.rollout import Flat, Plan, svs
from rl.rollout.collect import QuerySource
from rl.tasks import TASKS, Task, from_files

__all__ = ['CONFIGS', 'Config', 'main', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads

CONFIGS = {**configs.CONFIGS, **flow_configs.CONFIGS}


def main(config: Config | flow_configs.FlowConfig, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns the contents of results.json."""
  if isinstance(config, flow_configs.FlowConfig):
    return train_flow(config, workdir).results
  place, _ = meshes(config)
  policy, weights = policies.load(config.model, place, seed=config.seed)
  task = task_of(config)
  greedy = Flat(Draw(config.max_new, temperature=0.0), 1)
  drawn = Flat(Draw(config.max_new), config.eval_samples) if config.eval_samples else None
  outcome = run(
    (policy, weights),
    task,
    rewards=config.reward,
    workdir=workdir,
    steps=config.steps,
    max_new=config.max_new,
    slots=Slots(config.prompt_length, 0, 0, config.tiles),
    evaluation=Evaluation(greedy, drawn, config.eval_queries),
    rollout=plan_of(config),
    supervision=config.warmup,
    demonstrations=demonstrations_of(config, policy, task),
    offline=_offline_phase(config),
    page=Page(panel=(('entropy', 'entropy'),), panel_label='nats per token'),
    claim=config,
    config=config,
  )
  return outcome.results


def task_of(config: Config) -> Task:
  """The queries of a config, with the answer instruction of its recipe."""
  task = from_files(config.data, config.heldout, 'boxed_and_format') if config.data else TASKS[config.task]
  if not config.svs.instruction:
    return task
  asked = task.query
  instructed = lambda split, seed, index: svs.instructed(asked(split, seed, index), config.svs.instruction)
  return dataclasses.replace(task, query=instructed)


def plan_of(config: Config) -> Plan | None:
  """The rollout plan of a config; None for flat groups."""
  if config.svs.variants:
    return svs.Svs(config.draw(config.max_new), config.svs, config.group, config.seed)
  return None


def demonstrations_of(config: Config, policy: Policy, task: Task) -> Demonstrations | None:
  """What the supervised phase imitates, where the task can vary its queries: runs without synthesis start alike."""
  if not (task.vary and config.warmup.steps):
    return None
  limit = prompt_limit(policy, config, config.max_new, config.prompt_length)
  source = QuerySource(task, policy, config.seed, limit)
  examples = varied.demonstrations(source, config.svs.template, config.max_new)
  slots = ANY_SLOTS._replace(prompt=config.prompt_length, response=config.max_new)
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
