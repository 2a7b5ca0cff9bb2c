"""Draws what `bench.recipes.study` has run, and prints its tables.

python -m bench.recipes.figures --recipe=svs --runs=runs/svs_study --out=docs
"""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from bench.recipes import lines, study, trials
from bench.recipes.trials import Trial
from bench.report import stats
from core.launch import command
from core.launch.fields import field
from core.report import charts

COLORS = ('C0', 'C3')  # of the recipe and its control
WINDOW = 5  # values of a moving average, of metrics that every rollout has
STUDENT = 4.303  # standard errors that a 95 % interval of three values reaches to each side


@dataclasses.dataclass(frozen=True)
class Options(study.Named):
  """The program's flags."""

  runs: str = field('runs/study', 'folder of the study')
  out: str = field('docs', 'folder for the picture')


def reported(recipe, folder: pathlib.Path, rate: float = 0.0) -> dict[str, list[Trial]]:
  """The trials of each arm at a rate, or where it is 0 at the chosen one. Raises ValueError unless all have ended."""
  chosen = {}
  for arm in recipe.arms:
    chosen[arm] = trials.reported(arm, rate or study.best_rate(recipe, folder, arm))
    missing = [trial.name for trial in chosen[arm] if not study.ended(folder, trial)]
    if missing:
      raise ValueError(f'{folder}: {", ".join(missing)} not ended; bench.recipes.study runs them')
  return chosen


def points(folder: pathlib.Path, trial: Trial, metric: str, *, tokens: bool) -> lines.Points:
  """A metric of a trial, over rollouts or sampled tokens; smoothed where every rollout has it."""
  rollouts = trials.curve(folder, trial)
  place = trials.column(rollouts, 'step')
  if tokens:
    sampled = trials.column(rollouts, 'tokens')
    place = np.cumsum(sampled)
  has = [metric in rollout for rollout in rollouts]
  with_metric = [rollout for rollout in rollouts if metric in rollout]
  values = trials.column(with_metric, metric)
  if all(has):
    values = lines.smoothed(values, WINDOW)
  return lines.Points(place[has], values)


def curves(recipe, folder: pathlib.Path, chosen: dict[str, list[Trial]], path: pathlib.Path) -> None:
  """Each metric of the recipe: the mean of the seeds and each seed."""
  fig, axes = charts.stacked(7.0, 2.1 * len(recipe.curves), len(recipe.curves))
  for axis, (metric, meaning) in zip(axes, recipe.curves.items()):
    for color, (arm, line) in zip(COLORS, chosen.items()):
      found = [points(folder, trial, metric, tokens=recipe.tokens) for trial in line]
      lines.draw(axis, found, label=arm, color=color)
    axis.set_ylabel(meaning)
    axis.grid(alpha=0.3)
  axes[0].legend()
  over = 'sampled tokens' if recipe.tokens else 'rollouts'
  axes[-1].set_xlabel(f'{over} (thick: mean of three seeds; thin: each)')
  charts.save(fig, path)


def values(folder: pathlib.Path, line: Sequence[Trial], measure: str) -> np.ndarray:
  """float64 [seeds, questions]: a measure of each model on each question."""
  return np.array([study.measured(folder / trial.name)[measure] for trial in line])


def over_seeds(rows: np.ndarray) -> str:
  """The mean of [seeds] values and its 95 % interval by Student's t."""
  deviation = rows.std(ddof=1)
  half = STUDENT * deviation / math.sqrt(len(rows))
  return f'{rows.mean():.3f} ± {half:.3f}'


def over_questions(first: np.ndarray, second: np.ndarray) -> str:
  """The difference of two means of [seeds, questions] and its 95 % interval by paired bootstrap over the questions."""
  pairs = [(rows.mean(0)[:, None], np.ones((rows.shape[1], 1))) for rows in (first, second)]
  found = stats.paired(*pairs)
  return f'{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})'


def table(recipe, folder: pathlib.Path, chosen: dict[str, list[Trial]]) -> list[str]:
  """Lines of a table in Markdown: each measure before training, of each arm, and what the recipe adds."""
  first, second = chosen
  before = study.measured(folder / 'base')
  titles = [f'{arm}, learning rate {line[0].rate:g}' for arm, line in chosen.items()]
  rows = [('measure', 'before', *titles, 'difference, over seeds', 'difference, over questions')]
  rows.append(('---',) * len(rows[0]))
  for measure, meaning in recipe.measures.items():
    one = values(folder, chosen[first], measure)
    two = values(folder, chosen[second], measure)
    start = np.mean(before[measure])
    cells = [over_seeds(found.mean(1)) for found in (one, two, one - two)]
    difference = over_questions(one, two)
    rows.append((meaning, f'{start:.3f}', *cells, difference))
  return marked(rows)


def choices(recipe, folder: pathlib.Path) -> list[str]:
  """Lines of a table in Markdown: what each learning rate reached on the seed that chooses."""
  rows = [('arm', 'learning rate', *recipe.measures.values()), ('---',) * (2 + len(recipe.measures))]
  for arm in recipe.arms:
    for trial in trials.choosing(arm, recipe.rates):
      cells = [f'{study.reached(folder, trial, measure):.3f}' for measure in recipe.measures]
      rows.append((arm, f'{trial.rate:g}', *cells))
  return marked(rows)


def costs(folder: pathlib.Path, chosen: dict[str, list[Trial]]) -> list[str]:
  """Lines of a table in Markdown: rollouts and sampled tokens of each reported trial."""
  rows = [('trial', 'rollouts', 'sampled tokens'), ('---',) * 3]
  for line in chosen.values():
    for trial in line:
      rollouts = trials.curve(folder, trial)
      tokens = trials.column(rollouts, 'tokens').sum()
      rows.append((trial.name, str(len(rollouts)), f'{tokens:,.0f}'))
  return marked(rows)


def marked(rows: Sequence[Sequence[str]]) -> list[str]:
  """The rows as lines of Markdown."""
  return [f'| {" | ".join(row)} |' for row in rows]


def work(options: Options) -> None:
  """Writes the picture and prints the tables."""
  recipe = study.named(options.recipe)
  folder = pathlib.Path(options.runs)
  chosen = reported(recipe, folder, options.rate)
  at = f'_at_{options.rate:g}' if options.rate else ''
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  curves(recipe, folder, chosen, out / f'{options.recipe}_curves{at}.png')
  tables = [table(recipe, folder, chosen), costs(folder, chosen)]
  if not options.rate:
    tables.append(choices(recipe, folder))
  for rows in tables:
    print('\n'.join(rows), end='\n\n')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
