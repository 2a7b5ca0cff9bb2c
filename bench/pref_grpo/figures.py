"""Draws what `bench.pref_grpo.study` has run: curves, grids of held-out images over training, and tables.

python -m bench.pref_grpo.figures --runs=runs/hacking --out=docs
"""

import dataclasses
import io
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from bench.pref_grpo import trials
from bench.pref_grpo.trials import ARMS, Trial
from bench.recipes.lines import Points, draw, smoothed
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
PAPER = 255
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
  """The trials to draw, by the name of their line: those that have ended, at the given rate or at those chosen.

  Raises ValueError when none has ended.
  """
  folder = pathlib.Path(options.runs)
  lines = {}
  for arm in ARMS:
    rate = options.rate or trials.best_rate(folder, arm)
    lines[NAMES[arm]] = trials.reported(arm, rate)
    if arm == 'pref_grpo':
      lines[GUIDED] = [trials.guided(rate)]
  kept = {}
  for name, line in lines.items():
    ended = [trial for trial in line if trials.ended(folder, trial)]
    if ended:
      kept[name] = ended
  if not kept:
    raise ValueError(f'{folder}: no reported trial has ended; bench.pref_grpo.study runs them')
  return kept


def curves(lines: dict[str, list[Trial]], folder: pathlib.Path, out: pathlib.Path) -> None:
  """Each measure over the rollouts: the mean of the seeds and each seed."""
  fig, axes = charts.stacked(7.0, 9.5, len(MEASURES))
  for axis, measure in zip(axes, MEASURES):
    for name, line in lines.items():
      draw(axis, [_points(folder, trial, measure) for trial in line], label=name, color=COLORS[name])
    axis.set_ylabel(MEASURES[measure])
    axis.grid(alpha=0.3)
  axes[0].legend()
  axes[-1].set_xlabel(f'rollouts (moving average of {SMOOTHED}; thin lines: one seed each)')
  charts.save(fig, out / 'pref_grpo_curves.png')


def _points(folder: pathlib.Path, trial: Trial, measure: str) -> Points:
  """A trial's measure over its rollouts, smoothed."""
  rollouts = trials.curve(folder, trial)
  values = smoothed(trials.column(rollouts, measure), SMOOTHED)
  return Points(np.arange(len(values)), values)


def grids(folder: pathlib.Path, trial: Trial) -> list[Image.Image]:
  """The trial's grids of held-out images in order.

  Equal grids count once: the end is drawn twice, and a continued trial draws the one before training again.
  """
  images = folder / trial.name / 'images'
  files = [path.read_bytes() for path in sorted(images.glob('*.png'))]
  distinct = list(dict.fromkeys(files))
  last = len(distinct) - 1
  places = np.linspace(0, last, SHOWN)
  chosen = places.round().astype(int)
  return [Image.open(io.BytesIO(distinct[i])) for i in chosen]


def _joined(sheets: Sequence[Image.Image]) -> np.ndarray:
  """Grids side by side, with gaps between them."""
  pixels = [np.asarray(sheet) for sheet in sheets]
  height, width = pixels[0].shape
  gap = np.full((height, width // 8), PAPER, np.uint8)
  parts = []
  for sheet in pixels:
    parts += [sheet, gap]
  return np.concatenate(parts[:-1], 1)


def images(lines: dict[str, list[Trial]], folder: pathlib.Path, out: pathlib.Path) -> None:
  """Held-out images over training of the first seed of each line."""
  rows = len(lines)
  fig, axes = charts.stacked(7.0, 3.7 * rows, rows)
  for axis, name in zip(axes, lines):
    first = lines[name][0]
    sheets = grids(folder, first)
    axis.imshow(_joined(sheets), cmap='gray', vmin=0, vmax=PAPER, interpolation='nearest')
    axis.set_title(name)
    axis.set_axis_off()
  charts.save(fig, out / 'pref_grpo_images.png')


def table(folder: pathlib.Path) -> list[str]:
  """Lines of a table in Markdown: start and end of each trial that has ended."""
  rows = [('trial', *MEASURES.values())]
  rows.append(('---',) * len(rows[0]))
  for trial in trials.every(folder):
    rollouts = trials.curve(folder, trial)
    cells = [_change(rollouts, measure) for measure in MEASURES]
    rows.append((trial.name, *cells))
  return [f'| {" | ".join(row)} |' for row in rows]


def _change(rollouts: list[dict], measure: str) -> str:
  """A measure's means over the first and the last rollouts."""
  start = trials.at_start(rollouts, measure)
  end = trials.at_end(rollouts, measure)
  return f'{start:.3f} → {end:.3f}'


def work(options: Options) -> None:
  """Writes the pictures and prints the tables."""
  folder = pathlib.Path(options.runs)
  out = pathlib.Path(options.out)
  lines = drawn(options)
  curves(lines, folder, out)
  images(lines, folder, out)
  for row in table(folder):
    print(row)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
