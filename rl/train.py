"""Reinforcement learning of a vision-language policy by reward.

  python -m rl.train --workdir=runs/digits [--config=digits --config.steps=200 …]

A tiny InternVL learns from scratch, on real handwritten digits, to answer questions about a pair of them: a short
supervised warm-up, then GRPO on exact-match reward. The workdir ends with metrics.jsonl, TensorBoard events, the
reward curve, a report with sample answers, and a checkpoint that `python -m internvl.chat` answers from. Started
again, it goes on where it was stopped.
"""

import dataclasses
import json
import pathlib

import jax
from absl import logging

import internvl
from core import mesh, params
from core.launch import job as launch
from core.training import record
from internvl.training.export import export
from rl import report
from rl.configs import CONFIGS, Config
from rl.offline import offline
from rl.online import Ahead, InTurn, reinforce
from rl.plan import plan_step
from rl.rewards import Guard
from rl.rollouts import Collector
from rl.setup import setup
from rl.warmup import warm_up

__all__ = ['CONFIGS', 'Config', 'main', 'meshes', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads


def meshes(config: Config) -> tuple[mesh.Mesh, mesh.Share]:
  """(where the policy is updated, where it is sampled): all devices for both, or with `config.ahead` a half each.

  Of several processes, every `config.engine_processes` share one engine on their devices. Raises ValueError when the
  devices do not suffice, or the prompts of a rollout cannot be shared out.
  """
  devices, shape, engine = jax.devices(), dataclasses.asdict(config.mesh), dataclasses.asdict(config.engine_mesh)
  if config.prompts % jax.process_count():
    raise ValueError(f'prompts={config.prompts}: expected a multiple of the {jax.process_count()} processes')
  if not config.ahead:
    return mesh.make(**shape, devices=devices), mesh.share(config.engine_processes, **engine)
  if len(devices) % 2 or jax.process_count() > 1:
    raise ValueError(
      f'ahead=True: needs an even number of devices in one process; there are {len(devices)} in {jax.process_count()}'
    )
  half = len(devices) // 2
  home = mesh.make(**engine, devices=devices[half:])
  return mesh.make(**shape, devices=devices[:half]), mesh.Share(home, home)


def main(config: Config, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns what stands in results.json."""
  place, home = meshes(config)
  s, weights = setup(config, place)
  weights = warm_up(s, weights, workdir, place)
  sampler = s.sampler(weights, home)
  before = s.evaluate(sampler, config.eval_queries, config.eval_samples)
  logging.info('held-out accuracy after the warm-up: %.1f %%', 100 * before.accuracy)
  with Guard(s.task.reward, seconds=config.reward_seconds, otherwise=0.0) as guard:
    only = None
    if config.offline.queries:
      weights, only = offline(s, weights, sampler, workdir, place)
    source = (Ahead if config.ahead else InTurn)(Collector(s, guard, only), sampler)
    weights = reinforce(s, weights, source, workdir, place)
  sampler.update(weights)
  after = s.evaluate(sampler, config.eval_queries, config.eval_samples)
  results = {
    'seed': config.seed,
    'parameters': params.count(internvl.spec(s.model)),
    'before': before.summary(),
    'after': after.summary(),
  }
  with jax.set_mesh(place):
    export(workdir / 'model', s.model, params.cast(weights, config.dtype), s.processor)
  if jax.process_index() == 0:
    record.replace(workdir / 'results.json', json.dumps(results, indent=2) + '\n')
    report.write(workdir, before, after)
  for name, r in (('warm-up', before), ('reinforcement learning', after)):
    print(f'held-out accuracy after {name}: {r}')
  print(f'report: {workdir / "report.html"}')
  return results


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='digits')
