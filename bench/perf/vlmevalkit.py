"""Compares our scores with VLMEvalKit's on the same predictions, row by row.

  python -m bench.perf.vlmevalkit --kit=VLMEvalKit [--tables=FOLDER] [--rows=1000] [--show=3]

KIT is a checkout of github.com/open-compass/VLMEvalKit, whose scoring functions are called without its judge. FOLDER
has prediction tables named by task (docvqa.tsv, …); without it, predictions are drawn in spellings that models use.
The table gives both scores under rule=vlmevalkit, the rows on which they differ, and ours under the default rule.
"""

import csv
import dataclasses
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import tasks
from bench.harness.rows import read_rows
from bench.harness.store import write_text
from bench.harness.task import Answer, Item, Task
from bench.perf.kit import drawn, theirs
from core.launch import command
from core.launch.fields import field

HEADS = ('task', 'rows', 'kit', 'ours', 'difference', 'rows that differ', 'ours by default')
KIT_RULE = 'rule=vlmevalkit'
TOLERANCE = 1e-9  # of the points of one row; both sum floats


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  kit: str = field('', 'checkout of VLMEvalKit')
  tables: str = field('', 'folder of prediction tables, <task>.tsv; by default they are drawn')
  rows: int = field(1000, 'rows of a drawn table', low=4)
  seed: int = field(0, 'seed of drawn tables', low=0)
  show: int = field(3, 'differing rows to print for each task', low=0)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The points of a table's rows by the kit, by us under its rule, and by us under the default rule."""

  task: str
  rows: Sequence[Mapping]
  kit: Sequence[float]
  own: Sequence[float]
  default: Sequence[float]

  def different(self) -> list[tuple[str, str, float, float]]:
    """(prediction, answer, the kit's points, ours) of each row on which they differ."""
    found = []
    for row, kit, own in zip(self.rows, self.kit, self.own, strict=True):
      if abs(kit - own) > TOLERANCE:
        found.append((row['prediction'], row['answer'], kit, own))
    return found

  def line(self) -> str:
    """The row of the table."""
    kit = _percent(self.kit)
    own = _percent(self.own)
    default = _percent(self.default)
    rows = str(len(self.rows))
    different = str(len(self.different()))
    return _row((self.task, rows, f'{kit:.2f}', f'{own:.2f}', f'{own - kit:+.2f}', different, f'{default:.2f}'))


def write_tables(folder: Path, rows: int, seed: int) -> None:
  """Writes a drawn table for each task."""
  for task in drawn.TASKS:
    table = drawn.table(task, rows, seed)
    text = _tab_separated(table)
    write_text(folder / f'{task}.tsv', text)


def _tab_separated(table: Sequence[Mapping[str, str]]) -> str:
  """The text of a table, whose columns are those of any row."""
  columns = {}
  for row in table:
    columns.update(dict.fromkeys(row))
  text = io.StringIO(newline='')
  writer = csv.DictWriter(text, list(columns), dialect='excel-tab')
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()


def ours(task: Task, path: str, predictions: Mapping[str, str]) -> list[Item]:
  """Every example of a table with its prediction, scored. Raises ValueError where a row cannot be read."""
  data = task.load(path)
  if data.skipped:
    first = data.skipped[0]
    raise ValueError(f'{path}: {first.where} cannot be read: {first.reason}')
  answers = [Answer(predictions[example.id]) for example in data.examples]
  pairs = list(zip(data.examples, answers, strict=True))
  outcomes = task.score(pairs)
  items = []
  for (example, answer), outcome in zip(pairs, outcomes, strict=True):
    items.append(Item(example, (answer,), (outcome,), outcome.scores))
  return items


def compare(name: str, path: str, verdict: theirs.Verdict) -> Comparison:
  """A table of predictions, scored by `verdict`, by us as the kit does, and by us as we do."""
  rows = _rows(path)
  return Comparison(
    task=name,
    rows=rows,
    kit=[verdict(row) for row in rows],
    own=_points(name, path, rows, settings=[KIT_RULE]),
    default=_points(name, path, rows, settings=[]),
  )


def _rows(path: str) -> list[Mapping]:
  return [row for _, row in read_rows(path).rows]


def _predictions(rows: Sequence[Mapping]) -> dict[str, str]:
  return {row['index']: row['prediction'] for row in rows}


def _percent(points: Sequence[float]) -> float:
  return 100 * sum(points) / len(points)


def _points(name: str, path: str, rows: Sequence[Mapping], settings: Sequence[str]) -> list[float]:
  """Our points of each row of a table."""
  task = tasks.make(name, settings)
  points = []
  for item in ours(task, path, _predictions(rows)):
    numerator, _ = item.scores[task.primary]
    points.append(numerator)
  return points


def accuracies(path: str, kit: str, verdict: theirs.Verdict) -> str:
  """The line that gives HallusionBench's three accuracies by the kit and by us."""
  rows = _rows(path)
  task = tasks.make('hallusionbench', [KIT_RULE])
  items = ours(task, path, _predictions(rows))
  own = task.extras(items)
  published = theirs.three_accuracies(kit, rows, list(map(verdict, rows)))
  pairs = [f'{name} {value:.2f} and {own[name]:.2f}' for name, value in published.items()]
  return 'hallusionbench, the kit and ours: ' + ', '.join(pairs)


def work(options: Options) -> None:
  """Prints the table and the first differing rows of each task."""
  if not options.kit:
    raise ValueError('--kit is missing: expected a checkout of VLMEvalKit')
  verdicts = theirs.verdicts(options.kit)
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(options.tables or temporary)
    if not options.tables:
      write_tables(folder, options.rows, options.seed)
    paths = _tables(folder)
    comparisons = [compare(name, path, verdicts[name]) for name, path in paths.items()]
    _print_table(comparisons)
    if 'hallusionbench' in paths:
      print(accuracies(paths['hallusionbench'], options.kit, verdicts['hallusionbench']))
  for comparison in comparisons:
    _print_different(comparison, options.show)


def _tables(folder: Path) -> dict[str, str]:
  """Task → its table in a folder. Raises ValueError if there is none."""
  known = {}
  for name in drawn.TASKS:
    path = folder / f'{name}.tsv'
    if path.is_file():
      known[name] = str(path)
  if not known:
    raise ValueError(f'{folder}: none of {", ".join(drawn.TASKS)} as .tsv')
  return known


def _row(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _print_table(comparisons: Sequence[Comparison]) -> None:
  print(_row(HEADS))
  print('|---' * len(HEADS) + '|')
  for comparison in comparisons:
    print(comparison.line())


def _print_different(comparison: Comparison, show: int) -> None:
  for prediction, answer, kit, own in comparison.different()[:show]:
    print(f'{comparison.task}: {prediction!r} against {answer!r}: the kit {kit:g}, ours {own:g}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
