"""Multiple-choice and short open questions about pictures: their rows, their prompt, and what an answer says.

MMMU's rows are the general case (several pictures, marks where they go, open questions among the others); MMStar, AI2D,
RealWorldQA, ERQA and HallusionBench are rows of the same form with less in them.
"""

import functools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from bench.harness import judge as judging
from bench.harness.literals import read_list
from bench.harness.rows import RowError, iter_texts, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, user_message
from bench.vlm.answers import letters, options
from bench.vlm.pictures import folder_of, picture_bytes, picture_part, pictures_of
from rl.rewards.extract import conclusion, final_answer

RULES = ('strict', 'official', 'vlmevalkit')
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = 'Answer the question using a single word or phrase.'
_REFERENCE = re.compile(r'<image\s*(\d?)>')

Groups = Callable[[Mapping, str], dict[str, str]]
"""The groups of a row, from the row and its id."""


def check_rule(rule: str) -> None:
  """Raises ValueError for a rule that is not one of RULES."""
  if rule not in RULES:
    raise ValueError(f'rule is {rule!r}, expected one of {", ".join(RULES)}')


def load(path: str, *, groups: Groups, inline: Callable[[str], dict[str, str]] | None = None) -> Data:
  """The examples of a file or folder; inline: reads the options from a question whose row lists none."""
  make = functools.partial(_example, folder=folder_of(path), groups=groups, inline=inline)
  return load_examples(path, make)


def columns(row: Mapping, key: str = '', *, names: Mapping[str, str]) -> dict[str, str]:
  """Groups that are columns of the row: group → column, where the row has it."""
  present = {group: row.get(column) for group, column in names.items()}
  return {group: str(value) for group, value in present.items() if value not in (None, '')}


def _example(where: str, row: Mapping, *, folder: Path, groups: Groups, inline) -> Example:
  choices = _choices(row)
  written_out = not choices and inline is not None
  if written_out:
    choices = inline(str(row.get('question') or ''))
  golds = _golds(row.get('answer'))
  if choices:
    golds = (_letter(golds[0], choices), *golds[1:])
  pictures = _pictures(row, folder)
  key = row_id(row, where, 'id', 'index', 'question_id')
  question = row.get('question') or ('' if pictures else need(row, 'question'))
  fields = {
    'question': question,
    'hint': row.get('hint') or '',
    'choices': choices,
    'written_out': written_out,
    'golds': golds,
    'pictures': pictures,
  }
  kind = 'multiple choice' if choices else 'open'
  return Example(key, fields, groups(row, key) | {'kind': kind})


def _letter(gold: str, choices: Mapping[str, str]) -> str:
  """The letter of the right option, which AI2D's Parquet file numbers from 0. Raises RowError for no option."""
  letters = list(choices)
  if gold.isdecimal() and int(gold) < len(letters):
    return letters[int(gold)]
  if gold not in choices:
    raise RowError(f'answer {gold!r} is not among the options')
  return gold


def _pictures(row: Mapping, folder: Path) -> list[bytes]:
  """The pictures of a row in order: columns image_1 to image_7 (MMMU), else one of `pictures.COLUMNS`."""
  if 'image_1' not in row:
    return pictures_of(row, folder)
  cells = (row.get(f'image_{number}') for number in range(1, 8))
  pictures = [picture_bytes(cell, folder) for cell in cells]
  return [raw for raw in pictures if raw]


def listed_options(value) -> dict[str, str]:
  """Options by letter of a cell that is a list, or a list written as text; {} for an empty one. Raises RowError."""
  if value and isinstance(value, str):
    try:
      value = read_list(value)
    except ValueError as error:
      raise RowError(f'options: {error}') from None
  return dict(zip(string.ascii_uppercase, map(str, value or ())))


def _choices(row: Mapping) -> dict[str, str]:
  """Options as a list (MMMU), or as columns A, B, … (VLMEvalKit)."""
  listed = listed_options(row.get('options'))
  if listed:
    return listed
  return {letter: str(row[letter]) for letter in string.ascii_uppercase if row.get(letter) not in (None, '', 'nan')}


def _golds(answer) -> tuple[str, ...]:
  if isinstance(answer, str) and answer.startswith('['):
    try:
      answer = [str(value) for value in read_list(answer)]
    except ValueError:
      answer = [answer]
  if answer is None:
    answer = ''
  golds = tuple(iter_texts(answer if isinstance(answer, list) else str(answer)))
  if not any(gold.strip() for gold in golds):
    raise RowError('missing:answer')
  return golds


def prompt(example: Example, *, instruction: str) -> list[dict]:
  """The chat turn of a question: pictures where the text marks them, else before it."""
  f = example.fields
  lines = []
  if f['hint']:
    lines = [f'Hint: {f["hint"]}']
  lines.append(f['question'])
  if not f['written_out']:
    lines += [f'{letter}. {option}' for letter, option in f['choices'].items()]
  lines.append(instruction if f['choices'] else SHORT)
  return user_message(*_with_pictures('\n'.join(lines), f['pictures']))


def _with_pictures(text: str, pictures: list[bytes]) -> list:
  """The text in pieces, each picture where the text first marks it; pictures without a mark come first.

  A mark without a number is the next picture's.
  """
  numbered = dict(enumerate(pictures, 1))
  parts = []
  # Splitting by a pattern with one group alternates between text and number.
  for i, piece in enumerate(_REFERENCE.split(text)):
    if i % 2 == 0:
      parts += [piece] if piece.strip() else []
      continue
    number = int(piece) if piece else min(numbered, default=0)
    raw = numbered.pop(number, None)
    if raw is not None:
      parts.append(picture_part(raw))
  unmarked = map(picture_part, numbered.values())
  return [*unmarked, *parts]


def score(pairs: Iterable[tuple[Example, Answer]], *, rule, guess, judge, line_first) -> Iterator[Outcome]:
  """The outcomes of pairs of example and answer; judge: asked about what VLMEvalKit's rule cannot read."""
  pairs = list(pairs)
  read = [_read(example, answer.text, rule, line_first) for example, answer in pairs]
  verdicts = {}
  if judge:
    unread = [i for i, letter in enumerate(read) if letter is None]
    replies = judge.ask_all(_question(*pairs[i]) for i in unread)
    verdicts = dict(zip(unread, replies))
  for i, (example, answer) in enumerate(pairs):
    verdict = verdicts.get(i)
    status = None
    if verdict and verdict.status != judging.OK:
      status = verdict.status
    yield _outcome(example, answer.text, verdict.value if verdict else read[i], status, rule, guess)


def _two_options(example: Example) -> Mapping[str, str]:
  """VLMEvalKit turns an open question into "the gold answer, or another one"."""
  return example.fields['choices'] or {'A': example.fields['golds'][0], 'B': 'Other Answers'}


def _question(example: Example, answer: Answer) -> dict[str, str]:
  listed = '; '.join(f'{letter}. {option}' for letter, option in _two_options(example).items())
  return {'question': example.fields['question'], 'options': listed, 'answer': answer.text[:20_000]}


def _read(example: Example, text: str, rule: str, line_first: bool) -> str | None:
  """The letter that the rule reads, None for none.

  An open question under MMMU's rules gives "right" or "wrong".
  """
  choices = example.fields['choices']
  if rule == 'strict':
    if choices:
      return letters.chosen(text, choices)
    return _open(example, final_answer(text) or conclusion(text), strict=True)
  if line_first and choices and (letter := options.answer_line(text, choices)):
    return letter
  if rule == 'vlmevalkit':
    return options.vlmevalkit_option(text, _two_options(example))
  if choices:
    return options.mmmu_option(text, choices)
  return _open(example, text, strict=False)


def _open(example: Example, text: str, *, strict: bool) -> str:
  right = bool(text.strip()) and options.open_correct(text, example.fields['golds'], strict=strict)
  if right:
    return 'right'
  return 'wrong'


def _outcome(example: Example, text: str, letter: str | None, status, rule: str, guess: bool) -> Outcome:
  choices = example.fields['choices']
  if choices or rule == 'vlmevalkit':
    parsed = letter is not None and letter != options.REFUSED
    if letter is None and guess and choices:
      letter = options.guess(example.id, list(choices))
    right = letter == (example.fields['golds'][0] if choices else 'A')
  else:
    parsed = bool(text.strip())
    right = letter == 'right'
    letter = text.strip()[:200] or None
  scores = {'accuracy': (float(right), 1.0), 'parsed': (float(parsed), 1.0)}
  return Outcome(status or (OK if parsed else NO_ANSWER), letter, scores)
