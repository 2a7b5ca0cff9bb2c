"""MathVista (arXiv 2310.02255): mathematics in pictures, multiple choice and free form."""

import functools
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.harness import judge as judging
from bench.harness.literals import read_list
from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, user_message
from bench.vlm.answers import judges, letters, options
from bench.vlm.pictures import folder_of, picture_of, picture_part
from rl.rewards import answers
from rl.rewards.extract import conclusion, final_answer

RULES = ('strict', 'official', 'vlmevalkit')
STEPS = 'Reason step by step, then finish with a line "Final answer: ..".'
_LETTER = re.compile(r'\(([A-Za-z])\)')
_FINAL = re.compile(r'final answer\s*:\s*([^\n]*)', re.IGNORECASE)
_INTEGER = re.compile(r'\s*[+-]?\d{1,400}\s*')
_NUMBER = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?')
_GROUPS = ('question_type', 'answer_type', 'task', 'source', 'grade', 'context')


def mathvista(*, rule: str = 'strict', steps: bool = False, judge=None, judgements: str = '') -> Task:
  """MathVista.

  rule: strict (what the output marks as its answer, no nearest option), official or vlmevalkit.
  steps: ask for reasoning and a final line (InternVL's second prompt).
  judgements: file of extracted short answers, read and added to; without it a response is used as it is.
  """
  if rule not in RULES:
    raise ValueError(f'rule is {rule!r}, expected one of {", ".join(RULES)}')
  asked = judges.short_answer_judge(judge, judgements)
  return Task(
    name='mathvista',
    primary='accuracy',
    template=STEPS if steps else '',
    load=lambda path: _load(path),
    prompt=functools.partial(_prompt, steps=steps),
    score=functools.partial(_score, rule=rule, judge=asked),
    sampling=Sampling(max_tokens=4096),
    settings={'rule': rule, 'steps': steps, **(asked.settings() if asked else {})},
    group_metrics=('accuracy',),
  )


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  choices = row.get('choices')
  if isinstance(choices, str):
    try:
      choices = read_list(choices) if choices.strip() else None
    except ValueError as error:
      raise RowError(f'choices: {error}') from None
  answer = row.get('answer')
  if not isinstance(answer, (str, int, float)) or str(answer) == '':
    raise RowError('missing:answer')
  metadata = {}
  if isinstance(row.get('metadata'), dict):
    metadata = row.get('metadata')
  named = {name: row.get(name) or metadata.get(name) for name in _GROUPS}
  groups = {name: str(value) for name, value in named.items() if value}
  precision = row.get('precision')
  usable = isinstance(precision, (int, float)) and math.isfinite(precision)
  fields = {
    'query': row.get('query') or need(row, 'question'),
    'choices': tuple(map(str, choices or ())),
    'answer': str(answer),
    'kind': row.get('answer_type') or 'text',
    'picture': picture_of(row, folder),
    'precision': int(precision) if usable else 1,
  }
  return Example(row_id(row, where, 'pid', 'id', 'index'), fields, groups)


def _prompt(example: Example, *, steps: bool) -> list[dict]:
  text = example.fields['query'] + (f'\n{STEPS}' if steps else '')
  picture = []
  if example.fields['picture']:
    picture = [picture_part(example.fields['picture'])]
  return user_message(*picture, text)


def quick_extract(response: str, fields: Mapping, rule: str) -> str | None:
  """The short answer where no judge is needed: the response itself, or its "Final answer:" line.

  Else None.
  """
  if rule == 'strict':
    return _marked(response, fields)
  if rule == 'vlmevalkit':
    if _kit_value(response, fields) is not None:
      return response
    return None
  response = response.strip()
  if final := _FINAL.findall(response):
    response = final[-1].strip(' .*$')
  if response in fields['choices']:
    return response
  if fields['kind'] in ('integer', 'float') and _number(response) is not None:
    return response
  if final:
    return response
  return None


def _marked(response: str, fields: Mapping) -> str | None:
  """The short answer that a response commits to after its thoughts; None where it takes a judge to see it."""
  choices = dict(zip(string.ascii_uppercase, fields['choices']))
  if choices:
    letter = letters.chosen(response, choices)
    if letter:
      return choices[letter]
    return None
  marked = final_answer(response)
  text = answers.first_statement(conclusion(response) if marked is None else marked)
  if fields['kind'] in ('integer', 'float'):
    return _one_number(text)
  if marked is not None:
    return text
  return None


def _one_number(text: str) -> str | None:
  """The number that a short text states; None unless it is exactly one, however often it is written."""
  value = None
  if len(text) <= answers.MAX_CHARS:
    value = answers.rational(answers.bare(text))
  if value is not None:
    if abs(value) < 1e300:
      return str(float(value))
    return None
  found = {number.replace(',', '') for number in _NUMBER.findall(text[:20_000])}
  if len(found) == 1:
    return found.pop()
  return None


def normalised(extracted: str | None, fields: Mapping, rule: str) -> str | None:
  """The extracted answer in the form of the gold one; None if it has none.

  The official rule turns any text into the option at the smallest edit distance; VLMEvalKit's leaves it
  wrong.
  """
  if extracted is None:
    return None
  if rule == 'vlmevalkit':
    return _kit_value(extracted, fields)
  text = extracted.strip()
  if fields['choices']:
    return _option(text, fields['choices'], nearest=rule == 'official')
  if fields['kind'] == 'integer':
    value = _number(text)
    if value is None:
      return None
    return str(int(value))
  if fields['kind'] == 'float':
    value = _number(text)
    if value is None:
      return None
    return str(round(value, fields['precision']))
  return text


def _kit_value(text: str, fields: Mapping) -> str | None:
  """An option by VLMEvalKit's inference, or Python's reading of a number; the kit loses texts and lists."""
  if fields['choices']:
    choices = dict(zip(string.ascii_uppercase, fields['choices']))
    return choices.get(options.vlmevalkit_option(text, choices))
  if fields['kind'] == 'integer':
    if _INTEGER.fullmatch(text):
      return str(int(text))
    return None
  value = None
  if fields['kind'] == 'float':
    value = _number(text)
  if value is None:
    return None
  return str(value)


def _option(text: str, choices: tuple[str, ...], *, nearest: bool) -> str | None:
  letter = _LETTER.search(text)
  letter = letter[1].upper() if letter else text.upper()
  known = string.ascii_uppercase[: len(choices)]
  if len(letter) == 1 and letter in known:
    return choices[known.index(letter)]
  if text in choices:
    return text
  if not nearest:
    return None
  from rapidfuzz.distance import Levenshtein

  return min(choices, key=lambda choice: Levenshtein.distance(text[:2_000], choice))


def _number(text: str) -> float | None:
  try:
    value = float(text) if len(text) <= 400 else math.nan
  except ValueError:
    return None
  if math.isfinite(value):
    return value
  return None


def _score(pairs: Iterable[tuple[Example, Answer]], *, rule, judge) -> Iterator[Outcome]:
  pairs = list(pairs)
  found = [quick_extract(answer.text, example.fields, rule) for example, answer in pairs]
  unread = [i for i, text in enumerate(found) if text is None and pairs[i][1].text.strip()]
  statuses: dict[int, str] = {}
  if judge:
    questions = [{'question': pairs[i][0].fields['query'], 'response': pairs[i][1].text[:20_000]} for i in unread]
    for i, verdict in zip(unread, judge.ask_all(questions)):
      found[i] = verdict.value
      if verdict.status != judging.OK:
        statuses[i] = verdict.status
  else:
    for i in unread:
      found[i] = pairs[i][1].text
  for i, (example, _) in enumerate(pairs):
    value = normalised(found[i], example.fields, rule)
    right = value is not None and _same(value, example.fields, rule)
    status = statuses.get(i, NO_ANSWER if value is None else OK)
    yield Outcome(status, value[:2_000] if value is not None else None, {'accuracy': (float(right), 1.0)})


def _same(value: str, fields: Mapping, rule: str) -> bool:
  gold = fields['answer']
  if fields['kind'] == 'float' and not fields['choices'] and rule == 'vlmevalkit':
    return _number(gold) == _number(value)
  if rule == 'strict':
    return _folded(value) == _folded(gold)
  return value == gold


def _folded(text: str) -> str:
  """A number for a number; else text without case, blanks and a last full stop."""
  value = _number(text)
  if value is not None:
    return str(value)
  return ''.join(text.casefold().split()).rstrip('.')
