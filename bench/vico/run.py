"""Trains a base model and both stages of ViCO on made data for several seeds, and compares them on held-out prompts.

  python -m bench.vico.run --workdir=runs/vico                    # three seeds
  python -m bench.vico.run --workdir=runs/try --seeds=1 --prompts=256

Each stage is a run of `internvl.train` with its config (panels, panels_consistency, panels_routing); the same command
resumes an interrupted one. Prints a table, and writes results.json to the workdir.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from bench.report import stats
from bench.vico import measure
from core.launch import command
from core.launch.fields import field
from core.toy import panels
from internvl import train
from internvl.training.configs import Config

TRAINING = 4096  # examples of a seed


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  workdir: str = field('runs/vico', 'folder of the runs and of results.json')
  seeds: int = field(3, 'runs, from different weights and data', low=1)
  prompts: int = field(512, 'held-out prompts, of eight questions each', low=2)


def stages(folder: pathlib.Path, seed: int) -> dict[str, Config]:
  """The configs of one seed's runs by name, in order."""
  data = folder / 'train.jsonl'
  if not data.exists():
    panels.export(folder, 'train', seed, TRAINING)
  shared = {'data': (str(data),), 'heldout_rows': 0, 'seed': seed}
  base = str(folder / 'base' / 'model')
  consistent = str(folder / 'consistency' / 'model')
  return {
    'base': dataclasses.replace(train.CONFIGS['panels'], **shared),
    'consistency': dataclasses.replace(train.CONFIGS['panels_consistency'], model=base, **shared),
    'routing': dataclasses.replace(train.CONFIGS['panels_routing'], model=consistent, reference=base, **shared),
  }


def answers(folder: pathlib.Path, seed: int, prompts: int) -> measure.Answers:
  """Trains what of a seed is not trained yet, and measures it."""
  for name, config in stages(folder, seed).items():
    if not (folder / name / 'model').exists():
      train.main(config, folder / name)
  return measure.measure(folder / 'base' / 'model', folder / 'routing' / 'model', count=prompts, seed=0)


def results(measured: Sequence[measure.Answers]) -> dict:
  """Accuracy of each way, its difference from the base model with a paired interval, and figures of the router."""
  ways = measured[0].right
  right = {way: np.concatenate([m.right[way] for m in measured], 1).astype(float) for way in ways}
  counted = np.ones_like(right['base'])
  return {
    'prompts': len(counted),
    'accuracy': {way: float(values.mean()) for way, values in right.items()},
    'minus_base': {
      way: dataclasses.asdict(stats.paired((values, counted), (right['base'], counted)))
      for way, values in right.items()
      if way != 'base'
    },
    'seeds': [_seed(m) for m in measured],
  }


def _seed(m: measure.Answers) -> dict:
  rate = float(m.compressed.mean())
  few = 1 / 4  # image tokens of a compressed tile, over those of another
  return {
    'accuracy': {way: float(right.mean()) for way, right in m.right.items()},
    'compressed': rate,
    'image_tokens': 1 - rate * (1 - few),
    'auc': measure.auc(m.scores, ~m.dense),
  }


def table(found: dict) -> str:
  """The results as a Markdown table, in points."""
  lines = ['| tiles | accuracy | minus base | 95 % interval | by seed |', '|---|---|---|---|---|']
  for way, accuracy in found['accuracy'].items():
    by_seed = ', '.join(f'{100 * seed["accuracy"][way]:.2f}' for seed in found['seeds'])
    difference = found['minus_base'].get(way)
    change = '–'
    interval = '–'
    if difference:
      change = f'{100 * difference["value"]:+.2f}'
      interval = f'{100 * difference["low"]:+.2f} to {100 * difference["high"]:+.2f}'
    lines.append(f'| {way} | {100 * accuracy:.2f} | {change} | {interval} | {by_seed} |')
  for i, seed in enumerate(found['seeds']):
    lines.append(
      f'\nseed {i}: {seed["compressed"]:.1%} of tiles compressed, {seed["image_tokens"]:.1%} of image tokens left, '
      f'AUC of the score {seed["auc"]:.4f}'
    )
  return '\n'.join(lines)


def main(options: Options) -> None:
  """Runs the seeds one after the other."""
  workdir = pathlib.Path(options.workdir)
  measured = []
  for seed in range(options.seeds):
    measured.append(answers(workdir / f'seed{seed}', seed, options.prompts))
    found = results(measured)
    (workdir / 'results.json').write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    print(f'{seed + 1} of {options.seeds} seeds\n{table(found)}', flush=True)


if __name__ == '__main__':
  sys.exit(command.run(sys.argv, __doc__, Options, main))
