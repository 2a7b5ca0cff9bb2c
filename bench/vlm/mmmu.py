"""MMMU (arXiv 2311.16502) and MMMU-Pro (arXiv 2409.02813): college questions about pictures."""

import functools
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.harness import judge as judging
from bench.harness.literals import read_list
from bench.harness.rows import RowError, iter_texts, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, user_message
from bench.vlm import judges, letters, options
from bench.vlm.pictures import folder_of, picture_bytes, picture_part
from rl.rewards.extract import conclusion, final_answer

RULES = ('strict', 'official', 'vlmevalkit')
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = 'Answer the question using a single word or phrase.'
DIRECT = 'Answer with the letter of the correct option. The last line must be "Answer: X", X a letter.'
STEPS = 'Think step by step before answering. The last line must be "Answer: X", X a letter.'

DISCIPLINES = {
  'Art & Design': ('Art', 'Art_Theory', 'Design', 'Music'),
  'Business': ('Accounting', 'Economics', 'Finance', 'Manage', 'Marketing'),
  'Science': ('Biology', 'Chemistry', 'Geography', 'Math', 'Physics'),
  'Health & Medicine': (
    'Basic_Medical_Science',
    'Clinical_Medicine',
    'Diagnostics_and_Laboratory_Medicine',
    'Pharmacy',
    'Public_Health',
  ),
  'Humanities & Social Science': ('History', 'Literature', 'Psychology', 'Sociology'),
  'Tech & Engineering': (
    'Agriculture',
    'Architecture_and_Engineering',
    'Computer_Science',
    'Electronics',
    'Energy_and_Power',
    'Materials',
    'Mechanical_Engineering',
  ),
}
_DISCIPLINE = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
_REFERENCE = re.compile(r'<image\s*(\d)>')
_SUBJECT = re.compile(r'(?:dev|validation|test)_(\w+?)_\d+')


def mmmu(*, rule: str = 'strict', guess: bool = False, judge=None, judgements: str = '') -> Task:
  """MMMU. rule: strict, official or vlmevalkit. guess: a seeded random option for what the rule cannot read.

  judgements: file of verdicts by option (vlmevalkit rule), read and added to.
  """
  if rule not in RULES:
    raise ValueError(f'rule is {rule!r}, expected one of {", ".join(RULES)}')
  if judgements and rule != 'vlmevalkit':
    raise ValueError(f'judgements are for rule=vlmevalkit; rule is {rule!r}')
  asked = judges.option_judge(judge, judgements)
  return Task(
    name='mmmu',
    primary='accuracy',
    template=f'{LETTER}\n{SHORT}',
    load=_load,
    prompt=functools.partial(_prompt, instruction=LETTER),
    score=functools.partial(_score, rule=rule, guess=guess, judge=asked, line_first=False),
    sampling=Sampling(max_tokens=1024),
    settings={'rule': rule, 'guess': guess, **(asked.settings() if asked else {})},
    group_metrics=('accuracy', 'parsed'),
  )


def mmmu_pro(*, steps: bool = True, rule: str = 'strict', guess: bool = False) -> Task:
  """MMMU-Pro, either variant. rule: as of mmmu, official and vlmevalkit after a last line "Answer: X".

  steps: ask for reasoning first.
  """
  if rule not in RULES:
    raise ValueError(f'rule is {rule!r}, expected one of {", ".join(RULES)}')
  instruction = STEPS if steps else DIRECT
  return Task(
    name='mmmu_pro',
    primary='accuracy',
    template=instruction,
    load=_load,
    prompt=functools.partial(_prompt, instruction=instruction),
    score=functools.partial(_score, rule=rule, guess=guess, judge=None, line_first=True),
    sampling=Sampling(max_tokens=4096),
    settings={'rule': rule, 'guess': guess, 'steps': steps},
    group_metrics=('accuracy', 'parsed'),
  )


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  choices = _choices(row)
  golds = _golds(row.get('answer'))
  if choices and golds[0] not in choices:
    raise RowError(f'answer {golds[0]!r} is not among the options')
  names = [f'image_{i}' for i in range(1, 8)] if 'image_1' in row else ['image']
  listed = [value for name in names for value in (row[name] if isinstance(row.get(name), list) else [row.get(name)])]
  pictures = [raw for raw in (picture_bytes(value, folder) for value in listed) if raw]
  key = row_id(row, where, 'id', 'index')
  named = _SUBJECT.fullmatch(key)
  subject = str(row.get('subject') or row.get('category') or (named[1] if named else 'all'))
  discipline = row.get('l2-category') or _DISCIPLINE.get(subject.replace(' ', '_'), 'other')
  question = row.get('question') or ('' if pictures else need(row, 'question'))
  return Example(
    key,
    {'question': question, 'hint': row.get('hint') or '', 'choices': choices, 'golds': golds, 'pictures': pictures},
    {'discipline': str(discipline), 'subject': subject, 'kind': 'multiple choice' if choices else 'open'},
  )


def _choices(row: Mapping) -> dict[str, str]:
  """Options as a list, as a list written in text (MMMU), or as columns A, B, … (VLMEvalKit)."""
  listed = row.get('options')
  if isinstance(listed, str):
    try:
      listed = read_list(listed)
    except ValueError as error:
      raise RowError(f'options: {error}') from None
  if listed:
    return dict(zip(string.ascii_uppercase, map(str, listed)))
  return {letter: str(row[letter]) for letter in string.ascii_uppercase if row.get(letter) not in (None, '', 'nan')}


def _golds(answer) -> tuple[str, ...]:
  if isinstance(answer, str) and answer.startswith('['):
    try:
      answer = [str(value) for value in read_list(answer)]
    except ValueError:
      answer = [answer]
  golds = tuple(iter_texts(answer if isinstance(answer, list) else str(answer if answer is not None else '')))
  if not golds or not any(gold.strip() for gold in golds):
    raise RowError('missing:answer')
  return golds


def _prompt(example: Example, *, instruction: str) -> list[dict]:
  f = example.fields
  lines = [f'Hint: {f["hint"]}'] if f['hint'] else []
  lines += [f['question'], *(f'{letter}. {option}' for letter, option in f['choices'].items())]
  text = '\n'.join([*lines, instruction if f['choices'] else SHORT])
  parts, used = [], set()
  for i, piece in enumerate(_REFERENCE.split(text)):
    if i % 2 == 0:
      parts += [piece] if piece.strip() else []
    elif int(piece) <= len(f['pictures']) and int(piece) not in used:
      used.add(int(piece))
      parts.append(picture_part(f['pictures'][int(piece) - 1]))
  unused = [picture_part(raw) for i, raw in enumerate(f['pictures'], 1) if i not in used]
  return user_message(*unused, *parts)


def _score(pairs: Iterable[tuple[Example, Answer]], *, rule, guess, judge, line_first) -> Iterator[Outcome]:
  pairs = list(pairs)
  read = [_read(example, answer.text, rule, line_first) for example, answer in pairs]
  unread = [i for i, letter in enumerate(read) if letter is None] if judge else []
  verdicts = dict(zip(unread, judge.ask_all(_question(*pairs[i]) for i in unread))) if judge else {}
  for i, (example, answer) in enumerate(pairs):
    verdict = verdicts.get(i)
    status = verdict.status if verdict and verdict.status != judging.OK else None
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
    return (
      letters.chosen(text, choices) if choices else _open(example, final_answer(text) or conclusion(text), strict=True)
    )
  if line_first and choices and (letter := options.answer_line(text, choices)):
    return letter
  if rule == 'vlmevalkit':
    return options.vlmevalkit_option(text, _two_options(example))
  if choices:
    return options.mmmu_option(text, choices)
  return _open(example, text, strict=False)


def _open(example: Example, text: str, *, strict: bool) -> str:
  right = bool(text.strip()) and options.open_correct(text, example.fields['golds'], strict=strict)
  return 'right' if right else 'wrong'


def _outcome(example: Example, text: str, letter: str | None, status, rule: str, guess: bool) -> Outcome:
  choices = example.fields['choices']
  if choices or rule == 'vlmevalkit':
    parsed = letter is not None and letter != options.REFUSED
    if letter is None and guess and choices:
      letter = options.guess(example.id, list(choices))
    right = letter == (example.fields['golds'][0] if choices else 'A')
  else:
    parsed, right = bool(text.strip()), letter == 'right'
    letter = text.strip()[:200] or None
  scores = {'accuracy': (float(right), 1.0), 'parsed': (float(parsed), 1.0)}
  return Outcome(status or (OK if parsed else NO_ANSWER), letter, scores)
