"""Case banks as JSON lines, in the two forms that Memento's released code reads and writes.

`plain` (its non-parametric client): question, plan, reward. `labelled` (its parametric one): case, plan, case_label.
Export adds key and run to either, so that what is exported and imported again is the same bank.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from agents.memory.cases import Case, CaseBank
from core.text import parse_json
from core.training.record import replace

FORMS = ('plain', 'labelled')
LABELS = {'positive': 1.0, 'negative': 0.0}


@dataclasses.dataclass(frozen=True)
class Imported:
  """How many lines became cases, how many of them repeat an earlier task and plan; (line, reason) of other lines."""

  cases: int
  repeats: int
  skipped: tuple[tuple[int, str], ...]


def export_jsonl(bank: CaseBank, path: str | os.PathLike, *, form: str = 'plain') -> int:
  """Writes every case that is not quarantined, in order; returns how many. Whole or not at all."""
  if form not in FORMS:
    raise ValueError(f'form={form!r}: expected one of {FORMS}')
  cases = [case for case in bank.cases() if not case.quarantined]
  lines = [json.dumps(_row(case, form), ensure_ascii=False) + '\n' for case in cases]
  replace(Path(path), ''.join(lines))
  return len(cases)


def _row(case: Case, form: str) -> dict:
  if form == 'plain':
    reward = int(case.reward) if case.reward in (0, 1) else case.reward
    row = {'question': case.task, 'plan': case.plan, 'reward': reward}
  else:
    row = {'case': case.task, 'plan': case.plan, 'case_label': 'positive' if case.positive else 'negative'}
  return row | {'key': case.key, 'run': case.run}


def import_jsonl(bank: CaseBank, path: str | os.PathLike, *, run: str = '') -> Imported:
  """Adds the cases of a file in either form; unusable lines are passed over and reported.

  run: what lines without one came from; by default the file's name. An object of two other fields is read as task
  and plan, which counts as a success. Of lines that repeat a task, all are kept.
  """
  name = run or Path(path).name
  seen = {}
  plans: set[tuple[str, str]] = set()
  count = 0
  skipped = []
  for number, raw in enumerate(Path(path).read_bytes().split(b'\n'), 1):
    text = raw.decode('utf-8-sig', 'replace').strip()
    if not text:
      continue
    try:
      task, plan, reward, key, origin = _read(parse_json(text))
      repeat = seen[task] = seen.get(task, -1) + 1
      if origin is None:
        origin = f'{name}#{repeat}' if repeat else name
      bank.add(task, plan, reward, key=key, run=origin)
      count += 1
      plans.add((task, plan))
    except ValueError as error:
      skipped.append((number, str(error)))
  return Imported(count, count - len(plans), tuple(skipped))


def _read(row) -> tuple[str, str, float, str, str | None]:
  if not isinstance(row, Mapping):
    raise ValueError('not an object')
  named = next((name for name in ('question', 'case') if name in row), None)
  if named is None:
    if len(row) != 2:
      raise ValueError('neither question nor case')
    task, plan, reward = (*row.values(), 1.0)
  else:
    task = row[named]
    plan = row.get('plan', '')
    reward = LABELS.get(row.get('case_label')) if 'case_label' in row else row.get('reward')
  if isinstance(plan, (dict, list)):
    plan = json.dumps(plan, ensure_ascii=False)
  key = row.get('key', '')
  origin = row.get('run')
  if not all(isinstance(text, str) for text in (task, plan, key, origin or '')):
    raise ValueError('a task, plan, key or run that is not text')
  if not isinstance(reward, (int, float)) or not math.isfinite(reward):
    raise ValueError(f'reward {reward!r}')
  return task, plan, float(reward), key, origin
