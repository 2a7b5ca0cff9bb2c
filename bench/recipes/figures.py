"""Draws the curves of a study that `bench.recipes.study` ran, and prints its tables.

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
WINDOW = 5  # values of the moving average of metrics that every rollout has
STUDENT = 4.303  # standard errors in half a 95 % interval of three values


@dataclasses.dataclass(frozen=True)
class Options(study.Named):
  """The program's flags."""

  runs: str = field('runs/study', 'folder of the study')
  out: str = field('docs', 'folder for the picture')


def reported(recipe, folder: pathlib.Path, rate: float = 0.0) -> dict[str, list[Trial]]:
  """The trials of each arm at a rate, or at its chosen one if that is 0. Raises ValueError unless all have ended."""
  chosen = {}
  for arm in recipe.arms:
    arm_rate = rate or study.best_rate(recipe, folder, arm)
    line = trials.reported(arm, arm_rate)
    missing = [trial.name for trial in line if not study.ended(folder, trial)]
    if missing:
      raise ValueError(f'{folder}: {", ".join(missing)} not ended; bench.recipes.study runs them')
    chosen[arm] = line
  return chosen


def points(folder: pathlib.Path, trial: Trial, metric: str, *, tokens: bool) -> lines.Points:
  """A metric of a trial, over rollouts or sampled tokens; smoothed where every rollout has it."""
  rollouts = trials.curve(folder, trial)
  if tokens:
    sampled = trials.column(rollouts, 'tokens')
    place = np.cumsum(sampled)
  else:
    place = trials.column(rollouts, 'step')
  has = [metric in rollout for rollout in rollouts]
  with_metric = [rollout for rollout in rollouts if metric in rollout]
  values = trials.column(with_metric, metric)
  if all(has):
    values = lines.smoothed(values, WINDOW)
  return lines.Points(place[has], values)


def curves(recipe, folder: pathlib.Path, chosen: dict[str, list[Trial]], path: pathlib.Path) -> None:
  """Each metric of the recipe: the mean of the seeds and each seed."""
  panels = len(recipe.curves)
  fig, axes = charts.stacked(7.0, 2.1 * panels, panels)
  for axis, (metric, meaning) in zip(axes, recipe.curves.items()):
    for color, (arm, line) in zip(COLORS, chosen.items()):
      seeds = [points(folder, trial, metric, tokens=recipe.tokens) for trial in line]
      lines.draw(axis, seeds, label=arm, color=color)
    axis.set_ylabel(meaning)
    axis.grid(alpha=0.3)
  axes[0].legend()
  over = 'sampled tokens' if recipe.tokens else 'rollouts'
  axes[-1].set_xlabel(f'{over} (thick: mean of three seeds; thin: each)')
  charts.save(fig, path)


def values(folder: pathlib.Path, line: Sequence[Trial], measure: str) -> np.ndarray:
  """float64 [seeds, questions]: a measure of each model on each question."""
  rows = []
  for trial in line:
    measured = study.measured(folder / trial.name)
    rows.append(measured[measure])
  return np.array(rows)


def over_seeds(rows: np.ndarray) -> str:
  """The mean of [seeds] values and its 95 % interval by Student's t."""
  error = rows.std(ddof=1) / math.sqrt(len(rows))
  half = STUDENT * error
  return f'{rows.mean():.3f} ± {half:.3f}'


def over_questions(first: np.ndarray, second: np.ndarray) -> str:
  """The difference of two means of [seeds, questions] and its 95 % interval by paired bootstrap over the questions."""
  difference = stats.paired(_ratio(first), _ratio(second))
  return f'{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})'


def _ratio(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(numerator, denominator), [questions, 1] each: the mean over seeds of each question, which counts once."""
  mean = rows.mean(0)[:, None]
  return mean, np.ones_like(mean)


def table(recipe, folder: pathlib.Path, chosen: dict[str, list[Trial]]) -> list[str]:
  """Lines of a table in Markdown: each measure before training, of each arm, and what the recipe adds."""
  first, second = chosen
  before = study.measured(folder / 'base')
  titles = [f'{arm}, learning rate {line[0].rate:g}' for arm, line in chosen.items()]
  head = ('measure', 'before', *titles, 'difference, over seeds', 'difference, over questions')
  rows = []
  for measure, meaning in recipe.measures.items():
    start = np.mean(before[measure])
    one = values(folder, chosen[first], measure)
    two = values(folder, chosen[second], measure)
    by_seed = [x.mean(1) for x in (one, two, one - two)]
    cells = map(over_seeds, by_seed)
    rows.append((meaning, f'{start:.3f}', *cells, over_questions(one, two)))
  return marked(head, rows)


def choices(recipe, folder: pathlib.Path) -> list[str]:
  """Lines of a table in Markdown: what each learning rate reached on the seed that chooses."""
  head = ('arm', 'learning rate', *recipe.measures.values())
  rows = []
  for arm in recipe.arms:
    for trial in trials.choosing(arm, recipe.rates):
      reached = [study.reached(folder, trial, measure) for measure in recipe.measures]
      cells = [f'{value:.3f}' for value in reached]
      rows.append((arm, f'{trial.rate:g}', *cells))
  return marked(head, rows)


def costs(folder: pathlib.Path, chosen: dict[str, list[Trial]]) -> list[str]:
  """Lines of a table in Markdown: rollouts and sampled tokens of each reported trial."""
  head = ('trial', 'rollouts', 'sampled tokens')
  rows = []
  for line in chosen.values():
    for trial in line:
      rollouts = trials.curve(folder, trial)
      tokens = trials.column(rollouts, 'tokens').sum()
      rows.append((trial.name, str(len(rollouts)), f'{tokens:,.0f}'))
  return marked(head, rows)


def marked(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """A head and rows as the lines of a table in Markdown."""
  rule = ['---'] * len(head)
  return [f'| {" | ".join(cells)} |' for cells in (head, rule, *rows)]


def work(options: Options) -> None:
  """Writes the picture and prints the tables."""
  recipe = study.named(options.recipe)
  folder = pathlib.Path(options.runs)
  chosen = reported(recipe, folder, options.rate)
  at = ''
  if options.rate:
    at = f'_at_{options.rate:g}'
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
