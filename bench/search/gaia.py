"""GAIA (arXiv 2311.12983): questions for assistants with tools, some with a file, and one short right answer each."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, each

INSTRUCTION = (
  'Answer the question. The last line must be "FINAL ANSWER: " and the answer, as short as it can be: a number without '
  'separators or units, words without articles or abbreviations, or a list of these separated by commas.'
)
MARK = re.compile(r'final answer\s*:(.*)', re.IGNORECASE)
_PUNCTUATION = re.compile(r'[!-/:-@\[-`{-~]')


def gaia(*, plain: bool = False) -> Task:
  """GAIA's questions by its published scorer. plain: the whole output is the answer, as of an agent."""
  return Task(
    name='gaia',
    primary='accuracy',
    template=INSTRUCTION,
    load=_load,
    prompt=lambda example: [{'role': 'user', 'content': f'{example.fields["question"]}\n\n{INSTRUCTION}'}],
    score=each(functools.partial(_score, plain=plain)),
    sampling=Sampling(max_tokens=4096),
    settings={'plain': plain},
    group_metrics=('accuracy',),
  )


def _load(path: str) -> Data:
  folder = Path(path) if Path(path).is_dir() else Path(path).parent
  return load_examples(path, functools.partial(_example, folder=folder))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  name = row.get('file_name') or ''
  if name and not (folder / name).is_file():
    raise RowError(f'missing file {name}')
  fields = {'question': need(row, 'Question'), 'gold': need(row, 'Final answer'), 'files': (name,) if name else ()}
  return Example(row_id(row, where, 'task_id'), fields, {'level': str(row.get('Level', ''))})


def _score(example: Example, answer: Answer, *, plain: bool) -> Outcome:
  found = answer.text.strip() if plain else _marked(answer.text)
  right = False
  if found:
    right = right_answer(found, example.fields['gold'])
  return Outcome(OK if found else NO_ANSWER, found or None, {'accuracy': (float(right), 1.0)})


def _marked(text: str) -> str:
  marked = MARK.findall(text)
  if marked:
    return marked[-1].strip(' *')
  return ''


def right_answer(answer: str, gold: str) -> bool:
  """Whether an answer is right by the published rules, which the form of the right answer chooses.

  A number equals a number, without $, % and separators. A list, at a comma or semicolon, equals a list of as many, each
  member by these rules with its punctuation. Other texts are equal without case, blanks and punctuation.
  """
  if _number(gold) is not None:
    return _plain_number(answer) == _number(gold)
  wanted = re.split('[,;]', gold)
  if len(wanted) == 1:
    return _plain(answer) == _plain(gold)
  given = re.split('[,;]', answer)
  return len(given) == len(wanted) and all(map(_right_member, given, wanted))


def _right_member(answer: str, gold: str) -> bool:
  if _number(gold) is not None:
    return _plain_number(answer) == _number(gold)
  return _squeezed(answer) == _squeezed(gold)


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


def _plain_number(text: str) -> float | None:
  return _number(re.sub('[$%,]', '', text))


def _squeezed(text: str) -> str:
  return re.sub(r'\s', '', text).lower()


def _plain(text: str) -> str:
  return _PUNCTUATION.sub('', _squeezed(text))
