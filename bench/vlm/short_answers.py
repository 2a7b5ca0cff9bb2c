"""Short answers read off documents and charts: DocVQA, InfographicVQA (ANLS) and ChartQA (relaxed accuracy)."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness.literals import read_list
from bench.harness.rows import RowError, iter_texts, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Item, Outcome, Sampling, Task, each, user_message
from bench.vlm.pictures import COLUMNS, folder_of, picture_of, picture_part
from rl.rewards.extract import conclusion, final_answer, plain

PROMPT = 'Answer the question using a single word or phrase.'
_ANSWERS = ('answers', 'answer', 'label')
_QUESTIONS = ('question', 'query')
_GROUPS = {name: (name,) for name in ('human_or_machine', 'type', 'split')}
_MOST_CHARACTERS = 2_000
_LEAST_SIMILARITY = 0.5
_RELATIVE_ERROR = 0.05
RULES = ('strict', 'vlmevalkit')


def docvqa(*, rule: str = 'strict') -> Task:
  """DocVQA (arXiv 2007.00398): average normalised Levenshtein similarity, ANLS.

  rule: strict (the marked answer, else the text after the thoughts) or vlmevalkit (the whole output).
  """
  return short_answer_task('docvqa', 'anls', of_accepted(anls), rule)


def infovqa(*, rule: str = 'strict') -> Task:
  """InfographicVQA (arXiv 2104.12756): average normalised Levenshtein similarity, ANLS. rule: as of docvqa."""
  return short_answer_task('infovqa', 'anls', of_accepted(anls), rule)


def chartqa(*, rule: str = 'strict') -> Task:
  """ChartQA (arXiv 2203.10244): relaxed accuracy, numbers within 5 % of the label. rule: as of docvqa."""
  return short_answer_task('chartqa', 'accuracy', of_accepted(relaxed), rule)


def anls(prediction: str, accepted: Sequence[str]) -> float:
  """The best similarity over the accepted answers, 0 below one half; case and repeated blanks cost nothing."""
  best = max((_similarity(prediction, gold) for gold in accepted), default=0.0)
  if best >= _LEAST_SIMILARITY:
    return best
  return 0.0


def relaxed(prediction: str, accepted: Sequence[str]) -> float:
  """1 for a number within 5 % of an accepted one, or for equal text; a percentage is a hundredth of its number."""
  return float(any(_close(prediction.strip(), gold.strip()) for gold in accepted))


def _close(prediction: str, gold: str) -> bool:
  value = _number(prediction)
  target = _number(gold)
  # A target of zero has no relative error: its text decides, as in the published rule.
  if value is None or not target:
    return prediction.lower() == gold.lower()
  return abs(value - target) / abs(target) <= _RELATIVE_ERROR


def _number(text: str) -> float | None:
  try:
    value = float(text.rstrip('%')) / 100 if text.endswith('%') else float(text)
  except ValueError:
    return None
  if math.isfinite(value):
    return value
  return None


def _folded(text: str) -> str:
  return ' '.join(text.lower().split())


def _similarity(prediction: str, gold: str) -> float:
  """1 - edits / characters of the longer text, which are counted with its blanks, as published."""
  a = _folded(prediction)
  b = _folded(gold)
  longest = max(len(prediction.upper()), len(gold.upper()))
  if not longest or abs(len(a) - len(b)) > longest * _LEAST_SIMILARITY:
    return 0.0  # below the threshold without counting
  return 1 - edit_distance(a, b) / longest


def edit_distance(a: str, b: str) -> int:
  """Insertions, deletions and substitutions of characters between two texts."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    diagonal = row[0]
    row[0] = i
    for j, y in enumerate(b, 1):
      changed = diagonal + (x != y)
      diagonal = row[j]
      row[j] = min(changed, diagonal + 1, row[j - 1] + 1)
  return row[-1]


def short_answer_task(
  name: str,
  metric: str,
  points: Callable[[str, Example], float],
  rule: str,
  *,
  groups: Mapping[str, Sequence[str]] = _GROUPS,
  extras: Callable[[Sequence[Item]], Mapping[str, Any]] = lambda items: {},
) -> Task:
  """A task of short answers. points: 0 to 1, of an answer. rule: one of RULES. groups: what to report by, and the
  columns that may hold it.

  Raises ValueError for another rule.
  """
  check_rule(rule)
  return Task(
    name=name,
    primary=metric,
    template=PROMPT,
    load=functools.partial(_load, groups=groups),
    prompt=_prompt,
    score=each(functools.partial(_score, metric=metric, points=points, whole=rule == 'vlmevalkit')),
    sampling=Sampling(max_tokens=1024),
    settings={'points': points.__name__, 'rule': rule},
    group_metrics=(metric,),
    extras=extras,
  )


def check_rule(rule: str) -> None:
  """Raises ValueError for a rule that is not one of RULES."""
  if rule not in RULES:
    raise ValueError(f'rule is {rule!r}, expected one of {", ".join(RULES)}')


def of_accepted(rule: Callable[[str, Sequence[str]], float]) -> Callable[[str, Example], float]:
  """A rule over accepted answers as one over examples."""

  @functools.wraps(rule)
  def of_example(answer: str, example: Example) -> float:
    return rule(answer, example.fields['accepted'])

  return of_example


def _load(path: str, *, groups: Mapping[str, Sequence[str]]) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path), groups=groups))


def _example(where: str, row: Mapping, *, folder: Path, groups: Mapping[str, Sequence[str]]) -> Example:
  name = next((n for n in _QUESTIONS if row.get(n)), 'question')
  fields = {
    'question': need(row, name),
    'accepted': _accepted(next((row[n] for n in _ANSWERS if row.get(n)), None)),
    'picture': picture_of(row, folder),
  }
  known = {group: _first(row, columns) for group, columns in groups.items()}
  named = {group: str(value) for group, value in known.items() if value is not None}
  return Example(row_id(row, where, 'questionId', 'question_id', 'id', 'index'), fields, named)


def _first(row: Mapping, columns: Sequence[str]):
  """The first of the columns that is not empty, or None."""
  values = (row.get(column) for column in columns)
  return next((value for value in values if value not in (None, '')), None)


def _accepted(value) -> tuple[str, ...]:
  """The accepted answers of a cell: a list, a list written as text, or one answer."""
  if isinstance(value, str) and value.lstrip().startswith('['):
    try:
      value = read_list(value)
    except ValueError as error:
      raise RowError(f'answer: {error}') from None
  if isinstance(value, (int, float)):
    value = str(value)
  texts = tuple(text for text in iter_texts(value) if text.strip())
  if not texts:
    raise RowError('missing:answer')
  return texts


def _prompt(example: Example) -> list[dict]:
  raw = example.fields['picture']
  if raw is None:
    raise ValueError(f'{example.id}: the row names no picture in any of {", ".join(COLUMNS)}')
  return user_message(picture_part(raw), f'{example.fields["question"]}\n{PROMPT}')


def _score(example: Example, answer: Answer, *, metric: str, points, whole: bool) -> Outcome:
  found = answer.text if whole else _short(answer.text)
  if not found.strip():
    return Outcome(NO_ANSWER, None, {metric: (0.0, 1.0)})
  readings = [found] if whole else _readings(found)
  value = max(points(reading, example) for reading in readings)
  return Outcome(OK, found[:_MOST_CHARACTERS], {metric: (value, 1.0)})


def _readings(found: str) -> list[str]:
  """An answer as it is, without its full stop, which may be of a sentence or of "Corp.", and without quotes."""
  without_stop = found.removesuffix('.')
  unquoted = without_stop.strip('"“”')
  return [found, without_stop, unquoted.removesuffix('.')]


def _short(text: str) -> str:
  """What an output marks as its answer, else all of it after the thoughts."""
  marked = final_answer(text)
  found = plain(conclusion(text) if marked is None else marked)
  return found[:_MOST_CHARACTERS]
