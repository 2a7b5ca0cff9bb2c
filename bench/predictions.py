"""Writes the answers of a run as VLMEvalKit's prediction table, for its own evaluators.

  python -m bench.predictions --run=runs/mmstar/model --data=MMStar.tsv --out=model_MMStar.tsv

The table has the columns of the data without pictures, and `prediction`. The other way round, bench.run scores such a
table: `--answers=model_MMStar.tsv`.
"""

import csv
import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import read_rows
from bench.harness.store import write_text
from bench.vlm import pictures
from core.launch import command
from core.launch.fields import field

IDS = ('sample_index', 'questionId', 'question_id', 'id', 'index')


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  run: str | None = field(None, 'folder of a finished run')
  data: str | None = field(None, 'the table that it answered, as VLMEvalKit has it (.tsv)')
  out: str | None = field(None, 'table to write (.tsv)')

  def __post_init__(self):
    for name in ('run', 'data', 'out'):
      if not getattr(self, name):
        raise ValueError(f'--{name} is missing')


def first_answers(run: str) -> dict[str, str]:
  """The text of the first answer to each example of a run, by id. Raises FileNotFoundError without results.jsonl."""
  rows = read_rows(str(Path(run) / 'results.jsonl')).rows
  return {row['id']: row['samples'][0]['text'] for _, row in rows}


def table(rows: Sequence[Mapping], answers: Mapping[str, str]) -> tuple[str, int]:
  """(a tab-separated table of the rows with their answers, how many rows have one)."""
  names = [name for name in rows[0] if name not in pictures.COLUMNS]
  text = io.StringIO(newline='')
  writer = csv.DictWriter(text, [*names, 'prediction'], dialect='excel-tab', extrasaction='ignore')
  writer.writeheader()
  answered = 0
  for row in rows:
    ids = [str(row.get(name)) for name in IDS]
    answer = next((answers[key] for key in ids if key in answers), None)
    answered += answer is not None
    writer.writerow({**row, 'prediction': answer or ''})
  return text.getvalue(), answered


def work(options: Options) -> None:
  """Writes the table and says how many rows have an answer."""
  rows = [row for _, row in read_rows(options.data).rows]
  if not rows:
    raise ValueError(f'{options.data}: no rows')
  text, answered = table(rows, first_answers(options.run))
  if not answered:
    raise ValueError(f'{options.run}: answers none of the {len(rows)} rows of {options.data}')
  write_text(Path(options.out), text)
  print(f'{options.out}: {answered} of {len(rows)} rows have an answer')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
