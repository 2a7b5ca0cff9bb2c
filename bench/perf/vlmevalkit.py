"""Our scores beside VLMEvalKit's on the same predictions, row by row.

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


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  kit: str = field('', 'checkout of VLMEvalKit')
  tables: str = field('', 'folder of prediction tables, <task>.tsv; by default they are drawn')
  rows: int = field(1000, 'rows of a drawn table', low=4)
  seed: int = field(0, 'seed of drawn tables', low=0)
  show: int = field(3, 'differing rows to print for each task', low=0)


def write_tables(folder: Path, rows: int, seed: int) -> None:
  """Writes a drawn table for each task."""
  for task in drawn.TASKS:
    table = drawn.table(task, rows, seed)
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in table for name in row)), dialect='excel-tab')
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / f'{task}.tsv', text.getvalue())


def ours(task: Task, path: str, predictions: Mapping[str, str]) -> list[Item]:
  """Every example of a table with its prediction, scored. Raises ValueError where a row cannot be read."""
  data = task.load(path)
  if data.skipped:
    raise ValueError(f'{path}: {data.skipped[0].where} cannot be read: {data.skipped[0].reason}')
  pairs = [(example, Answer(predictions[example.id])) for example in data.examples]
  outcomes = list(task.score(pairs))
  items = []
  for (example, answer), outcome in zip(pairs, outcomes, strict=True):
    items.append(Item(example, (answer,), (outcome,), outcome.scores))
  return items


def compare(name: str, path: str, verdict: theirs.Verdict) -> tuple[tuple, list[tuple]]:
  """(a line of the table, the rows that differ: prediction, answer, the kit's points, ours)."""
  rows = [row for _, row in read_rows(path).rows]
  predictions = {row['index']: row['prediction'] for row in rows}
  wanted = list(map(verdict, rows))
  points = _points(name, ['rule=vlmevalkit'], path, predictions)
  default = _points(name, [], path, predictions)
  differ = []
  for row, kit, own in zip(rows, wanted, points, strict=True):
    if abs(kit - own) > 1e-9:
      differ.append((row['prediction'], row['answer'], kit, own))
  kit_mean = _percent(wanted)
  own_mean = _percent(points)
  line = (name, len(rows), kit_mean, own_mean, own_mean - kit_mean, len(differ), _percent(default))
  return line, differ


def _percent(points: Sequence[float]) -> float:
  return 100 * sum(points) / len(points)


def _points(name: str, settings: Sequence[str], path: str, predictions: Mapping[str, str]) -> list[float]:
  task = tasks.make(name, settings)
  return [item.scores[task.primary][0] for item in ours(task, path, predictions)]


def accuracies(path: str, kit: str, verdict: theirs.Verdict) -> str:
  """The line that gives HallusionBench's three accuracies by the kit and by us."""
  rows = [row for _, row in read_rows(path).rows]
  task = tasks.make('hallusionbench', ['rule=vlmevalkit'])
  items = ours(task, path, {row['index']: row['prediction'] for row in rows})
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
    results = [compare(name, path, verdicts[name]) for name, path in paths.items()]
    _print_table([line for line, _ in results])
    if 'hallusionbench' in paths:
      print(accuracies(paths['hallusionbench'], options.kit, verdicts['hallusionbench']))
  for line, differ in results:
    for prediction, answer, kit, own in differ[: options.show]:
      print(f'{line[0]}: {prediction!r} against {answer!r}: the kit {kit:g}, ours {own:g}')


def _tables(folder: Path) -> dict[str, str]:
  """Task → its table in a folder. Raises ValueError if there is none."""
  paths = {name: folder / f'{name}.tsv' for name in drawn.TASKS}
  known = {name: str(path) for name, path in paths.items() if path.is_file()}
  if not known:
    raise ValueError(f'{folder}: none of {", ".join(drawn.TASKS)} as .tsv')
  return known


def _print_table(lines: Sequence[tuple]) -> None:
  print('| ' + ' | '.join(HEADS) + ' |')
  print('|---' * len(HEADS) + '|')
  for name, rows, kit, own, gap, count, default in lines:
    print(f'| {name} | {rows} | {kit:.2f} | {own:.2f} | {gap:+.2f} | {count} | {default:.2f} |')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
