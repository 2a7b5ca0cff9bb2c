"""Reinforcement learning by reward, of a language model or of a vision-language model.

  python -m rl.train --workdir=runs/digits [--config=digits --config.steps=200 …]

A tiny InternVL learns from scratch, on real handwritten digits, to answer questions about a pair of them: a short
supervised warm-up, then exact-match reward with GRPO's advantage and DAPO's loss. The workdir ends with metrics.jsonl,
TensorBoard events, the reward curve, a report with sample responses, and a checkpoint folder in the format of the
model's family. The same command continues a run that was stopped.
"""

import functools
import pathlib
from collections.abc import Callable

from core.launch import job as launch
from rl import policy as policies
from rl.configs import CONFIGS, Config
from rl.devices import meshes
from rl.evaluate import Evaluation
from rl.loop import run
from rl.plan import plan_step
from rl.policy import Draw, Slots
from rl.preference.offline import offline
from rl.rollout import Flat
from rl.tasks import TASKS, from_files

__all__ = ['CONFIGS', 'Config', 'main', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads


def main(config: Config, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns the contents of results.json."""
  place, _ = meshes(config)
  policy, weights = policies.load(config.model, place, seed=config.seed)
  task = from_files(config.data, config.heldout, 'boxed_and_format') if config.data else TASKS[config.task]
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
    supervision=config.warmup,
    offline=_offline_phase(config),
    claim=config,
    config=config,
  )
  return outcome.results


def _offline_phase(config: Config) -> Callable | None:
  """The phase between imitation and reward, or None."""
  if not config.offline.queries:
    return None
  return functools.partial(
    offline, settings=config.offline, max_new=config.max_new, dtype=config.dtype, remat=config.remat
  )


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='digits')
