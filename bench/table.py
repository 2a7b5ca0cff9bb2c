"""Several runs in one table: a row for each model, a column for each task, its headline number with its interval.

  python -m bench.table runs/*/* [--out=table.md]

A cell is a run's primary metric, in percent where it is a share. Runs of one task with different prompts, scorers or
data do not compare; the table marks them, and says below what differs.
"""

import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.store import write_text
from bench.report.page import number, scale_of
from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  runs: tuple[str, ...] = field((), 'folders of finished runs', positional=True)
  out: str | None = field(None, 'Markdown file to write as well as printing')

  def __post_init__(self):
    if not self.runs:
      raise ValueError('expected one or more folders of finished runs')


def read(folder: str) -> dict:
  """The report of a run. Raises ValueError for a folder without one."""
  path = Path(folder) / 'report.json'
  if not path.is_file():
    raise ValueError(f'{folder}: no report.json; expected the folder of a finished run')
  return json.loads(path.read_text(encoding='utf-8'))


def markdown(reports: Sequence[Mapping]) -> str:
  """The table, and below it what keeps runs of a task from comparing. The last of several runs of a cell counts."""
  cells = {(report['model'], report['task']): report for report in reports}
  models, tasks = (list(dict.fromkeys(part)) for part in zip(*cells))
  notes = {task: _differences([cells[m, task] for m in models if (m, task) in cells]) for task in tasks}
  heads = [f'{task} *' if notes[task] else task for task in tasks]
  lines = ['| model | ' + ' | '.join(heads) + ' |', '|---' * (len(tasks) + 1) + '|']
  for model in models:
    values = [_cell(cells.get((model, task))) for task in tasks]
    lines.append(f'| {model} | ' + ' | '.join(values) + ' |')
  lines += [f'\n\\* {task}: the runs differ in {", ".join(names)}' for task, names in notes.items() if names]
  return '\n'.join(lines) + '\n'


def _cell(report: Mapping | None) -> str:
  estimate = None
  if report:
    estimate = report['metrics'].get(report['primary'])
  if estimate:
    return number(estimate, scale_of(report['primary'], report))
  return '–'


def _differences(reports: Sequence[Mapping]) -> list[str]:
  """Of the prompt, the scorer and the data, those in which the runs of one task differ."""
  seen = defaultdict(set)
  for report in reports:
    seen['prompt'].add(report['prompt_hash'])
    seen['scorer'].add(json.dumps(report['scorer'], sort_keys=True))
    seen['data'].add(json.dumps([sorted(report['data']['files'].values()), report['data']['examples']]))
  return [name for name, values in seen.items() if len(values) > 1]


def work(options: Options) -> None:
  """Prints the table, and writes it where asked."""
  text = markdown([read(folder) for folder in options.runs])
  print(text, end='')
  if options.out:
    write_text(Path(options.out), text)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
