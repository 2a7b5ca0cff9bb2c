"""Draws what `bench.pref_grpo.study` has run: curves, grids of held-out images over training, and tables.

python -m bench.pref_grpo.figures --runs=runs/hacking --out=docs
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bench.pref_grpo import trials
from bench.pref_grpo.trials import ARMS, Trial
from core.launch import command
from core.launch.fields import field
from core.report import charts

NAMES = {'pref_grpo': 'Pref-GRPO', 'flow_grpo': 'pointwise GRPO'}
GUIDED = f'Pref-GRPO, guidance {trials.GUIDANCE:g}'
COLORS = {'Pref-GRPO': 'C0', 'pointwise GRPO': 'C3', GUIDED: 'C2'}
MEASURES = {
  'reward/score': 'score (can be hacked)',
  'right': 'right, by the held-out judge',
  'reward/edges': 'ink at the edges (the hack)',
  'reward/distance': 'distance to the nearest scan',
}
SMOOTHED = 5  # rollouts of a moving average
SHOWN = 5  # grids of a trial, from before training to its end


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  runs: str = field('runs/hacking', 'folder of the study')
  out: str = field('docs', 'folder for the pictures')
  rate: float = field(0.0, 'learning rate of the trials to draw; 0: those that were chosen', low=0)

  def __post_init__(self):
    for folder in (self.runs, self.out):
      if not pathlib.Path(folder).is_dir():
        raise ValueError(f'{folder}: expected a folder that exists')


def drawn(options: Options) -> dict[str, list[Trial]]:
  """The trials to draw, by the name of their line: those that have ended, at the given rate or at those chosen."""
  folder = pathlib.Path(options.runs)
  lines = {}
  for arm in ARMS:
    rate = options.rate or trials.best_rate(folder, arm)
    lines[NAMES[arm]] = trials.reported(arm, rate)
    if arm == 'pref_grpo':
      lines[GUIDED] = [trials.guided(rate)]
  kept = {name: [trial for trial in line if trials.ended(folder, trial)] for name, line in lines.items()}
  return {name: line for name, line in kept.items() if line}


def smoothed(values: np.ndarray) -> np.ndarray:
  """A moving average over the rollouts up to each, of fewer at the start."""
  sums = np.cumsum(np.pad(values, (1, 0)))
  ends = np.arange(1, len(values) + 1)
  starts = np.maximum(ends - SMOOTHED, 0)
  return (sums[ends] - sums[starts]) / (ends - starts)


def curves(lines: dict[str, list[Trial]], folder: pathlib.Path, out: pathlib.Path) -> None:
  """Each measure over the rollouts: the mean of the seeds and each seed."""
  fig, axes = charts.stacked(7.0, 9.5, len(MEASURES))
  for axis, (measure, label) in zip(axes, MEASURES.items()):
    for name, line in lines.items():
      rows = [smoothed(_column(folder, trial, measure)) for trial in line]
      for row in rows:
        axis.plot(row, color=COLORS[name], linewidth=0.7, alpha=0.5)
      charts.curve(axis, range(len(rows[0])), np.mean(rows, 0), label=name, color=COLORS[name], linewidth=2)
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
  axes[0].legend()
  axes[-1].set_xlabel(f'rollouts (moving average of {SMOOTHED}; thin lines: one seed each)')
  charts.save(fig, out / 'pref_grpo_curves.png')


def _column(folder: pathlib.Path, trial: Trial, measure: str) -> np.ndarray:
  return trials.column(trials.curve(folder, trial), measure)


def grids(folder: pathlib.Path, trial: Trial) -> list[Image.Image]:
  """The trial's grids of held-out images in order; a continued trial has drawn the one before training again."""
  paths = sorted((folder / trial.name / 'images').glob('*.png'))
  first = paths[0].read_bytes()
  later = [path for path in paths[1:] if path.read_bytes() != first]
  chosen = np.linspace(0, len(later), SHOWN).round().astype(int)
  kept = [paths[0], *later]
  return [Image.open(kept[i]) for i in chosen]


def images(lines: dict[str, list[Trial]], folder: pathlib.Path, out: pathlib.Path) -> None:
  """Held-out images over training of the first seed of each line."""
  rows = {name: line[0] for name, line in lines.items()}
  fig, axes = charts.stacked(7.0, 3.7 * len(rows), len(rows))
  for axis, (name, trial) in zip(axes, rows.items()):
    sheets = [np.asarray(sheet) for sheet in grids(folder, trial)]
    height, width = sheets[0].shape
    gap = np.full((height, width // 8), 255, np.uint8)
    joined = [part for sheet in sheets for part in (sheet, gap)][:-1]
    axis.imshow(np.concatenate(joined, 1), cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    axis.set_title(name)
    axis.set_axis_off()
  charts.save(fig, out / 'pref_grpo_images.png')


def table(folder: pathlib.Path) -> list[str]:
  """Lines of a table in Markdown: start and end of each trial that has ended."""
  head = ' | '.join(MEASURES.values())
  lines = [f'| trial | {head} |', '|---' * (len(MEASURES) + 1) + '|']
  for trial in trials.every(folder):
    rollouts = trials.curve(folder, trial)
    start = [float(trials.column(rollouts, measure)[: trials.LAST].mean()) for measure in MEASURES]
    end = [trials.at_end(rollouts, measure) for measure in MEASURES]
    cells = [f'{a:.3f} → {b:.3f}' for a, b in zip(start, end)]
    lines.append(f'| {trial.name} | {" | ".join(cells)} |')
  return lines


def work(options: Options) -> None:
  """Writes the pictures and prints the tables."""
  folder, out = pathlib.Path(options.runs), pathlib.Path(options.out)
  lines = drawn(options)
  curves(lines, folder, out)
  images(lines, folder, out)
  print('\n'.join(table(folder)))


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
