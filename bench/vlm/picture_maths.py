"""Mathematics with pictures: MathVision, MathVerse, and DynaMath with its worst case."""

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench import maths
from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Item, Outcome, Sampling, Task, user_message
from bench.vlm import choices
from bench.vlm.answers import letters
from bench.vlm.multiple_choice import inline_choices
from bench.vlm.pictures import folder_of, picture_of, picture_part
from rl.rewards import answers

BOXED = 'Please reason step by step, and put your final answer within \\boxed{}.'
LETTER = 'Please reason step by step, and put the letter of the right option within \\boxed{}.'
DECIMALS = 'Please reason step by step, and put your final answer, with three decimals, within \\boxed{}.'
TOLERANCE = Fraction(1, 1000)  # absolute, of DynaMath's floats
_PLACE = re.compile(r'<image\d*>')
_SHORT = re.compile(r'"short answer"\s*:\s*"?((?:[^"\\,}]|\\.)*)"?')


@dataclasses.dataclass(frozen=True)
class Keys:
  """The columns that may name a row, and those that may name the problem it is a variant of."""

  row: tuple[str, ...] = ('sample_index', 'index', 'id')
  problem: tuple[str, ...] = ('problem_index',)


_VARIANTS = Keys(row=('index',), problem=('qid', 'id'))  # DynaMath's Parquet files repeat an id once a variant


def mathvision(*, seconds: float = maths.SECONDS) -> Task:
  """MathVision (arXiv 2402.14804): competition problems. seconds: wall-clock limit of one comparison."""
  return _task('mathvision', seconds, groups={'subject': 'subject', 'level': 'level'})


def mathverse(*, version: str = 'Vision Only', seconds: float = maths.SECONDS) -> Task:
  """MathVerse (arXiv 2403.14624). version: of each problem, or all. seconds: wall-clock limit of one comparison."""
  return _task('mathverse', seconds, groups={'version': 'problem_version', 'type': 'question_type'}, version=version)


def dynamath(*, seconds: float = maths.SECONDS) -> Task:
  """DynaMath (arXiv 2411.00836): ten variants a problem; average, and the share of problems with all variants right.

  seconds: wall-clock limit of one comparison.
  """
  groups = {'subject': 'subject', 'level': 'knowledge_level'}
  return _task('dynamath', seconds, groups=groups, keys=_VARIANTS, extras=worst_case)


def worst_case(items: Sequence[Item]) -> dict[str, float]:
  """Average and worst-case accuracy in percent."""
  problems = defaultdict(list)
  for item in items:
    problems[item.example.unit].append(item.scores['accuracy'][0] == 1)
  average = sum(item.scores['accuracy'][0] for item in items) / max(1, len(items))
  solved = sum(map(all, problems.values()))
  worst = 100 * solved / max(1, len(problems))
  return {'average': 100 * average, 'worst case': worst}


def _task(
  name: str,
  seconds: float,
  *,
  groups: Mapping[str, str],
  keys: Keys = Keys(),
  version: str = '',
  extras: Any = lambda items: {},
) -> Task:
  settings = {'seconds': seconds, 'comparison': 'letters; decimals within 0.001; else exact, then math-verify'}
  return Task(
    name=name,
    primary='accuracy',
    template='\n'.join((BOXED, LETTER, DECIMALS)),
    load=functools.partial(_load, groups=groups, keys=keys, version=version),
    prompt=_prompt,
    score=functools.partial(_score, seconds=seconds),
    sampling=Sampling(max_tokens=16_384),
    settings=settings | ({'version': version} if version else {}),
    group_metrics=('accuracy',),
    extras=extras,
  )


def _load(path: str, *, groups: Mapping[str, str], keys: Keys, version: str) -> Data:
  data = load_examples(path, functools.partial(_example, folder=folder_of(path), groups=groups, keys=keys))
  if version in ('', 'all'):
    return data
  kept = tuple(example for example in data.examples if example.groups.get('version') == version)
  if data.examples and not kept:
    known = sorted({example.groups.get('version', 'none') for example in data.examples})
    raise ValueError(f'version is {version!r}, expected all or one of {", ".join(known)}')
  return Data(kept, data.read, data.files, data.skipped, data.repaired)


def _example(where: str, row: Mapping, *, folder: Path, groups: Mapping[str, str], keys: Keys) -> Example:
  question = need(row, 'question')
  gold = str(row.get('answer', row.get('ground_truth', ''))).strip()
  if not gold:
    raise RowError('missing:answer')
  options, listed = _options(row, question)
  if options and gold not in options:
    raise RowError(f'answer {gold!r} is not among the options')
  fields = {
    'question': _PLACE.sub('', question).strip(),
    'answer': gold,
    'options': options,
    'listed': listed,
    'decimals': row.get('answer_type') == 'float',
    'picture': picture_of(row, folder),
  }
  known = choices.columns(row, names=groups)
  key = row_id(row, where, *keys.row)
  return Example(key, fields, known, cluster=row_id(row, key, *keys.problem))


def _options(row: Mapping, question: str) -> tuple[dict[str, str], bool]:
  """(options by letter, whether the question lists them); {} for a free answer."""
  given = choices.listed_options(row.get('options') or row.get('choices'))
  if given:
    return given, False
  kind = str(row.get('question_type') or row.get('answer_type') or '')
  if not kind.startswith('multi'):
    return {}, False
  # MathVerse keeps the whole question for the judge where the model is to read it in the picture.
  written = inline_choices(row.get('question_for_eval') or question)
  return written or {letter: letter for letter in 'ABCDE'}, True


def _prompt(example: Example) -> list[dict]:
  f = example.fields
  picture = []
  if f['picture']:
    picture = [picture_part(f['picture'])]
  listed = [] if f['listed'] else [f'{letter}. {option}' for letter, option in f['options'].items()]
  instruction = LETTER if f['options'] else DECIMALS if f['decimals'] else BOXED
  return user_message(*picture, '\n'.join([f['question'], *listed, instruction]))


def _score(pairs: Iterable[tuple[Example, Answer]], *, seconds: float) -> Iterator[Outcome]:
  pairs = [(example, dataclasses.replace(answer, text=short_answer(answer.text))) for example, answer in pairs]
  kinds = [_kind(example) for example, _ in pairs]
  texts = [pair for pair, kind in zip(pairs, kinds) if kind == 'text']
  compared = maths.score(texts, exact=False, last_number=True, seconds=seconds)
  for (example, answer), kind in zip(pairs, kinds):
    if kind == 'text':
      yield next(compared)
    else:
      yield _chosen(example, answer) if kind == 'letter' else _near(example, answer)


def _kind(example: Example) -> str:
  """How an answer is compared: as a letter, as a number with decimals, or as mathematical text."""
  if example.fields['options']:
    return 'letter'
  if example.fields['decimals']:
    return 'decimals'
  return 'text'


def short_answer(text: str) -> str:
  """The field "short answer" of an output in DynaMath's JSON form, else the output."""
  fields = _SHORT.findall(text)
  if fields:
    return fields[-1]
  return text


def _chosen(example: Example, answer: Answer) -> Outcome:
  letter = letters.chosen(answer.text, example.fields['options'])
  right = letter == example.fields['answer']
  return Outcome(OK if letter else NO_ANSWER, letter, {'accuracy': (float(right), 1.0)})


def _near(example: Example, answer: Answer) -> Outcome:
  found = answers.extract(answer.text, last_number=True)
  value, target = (answers.rational(text) if text else None for text in (found, example.fields['answer']))
  right = None not in (value, target) and abs(value - target) <= TOLERANCE
  return Outcome(OK if found else NO_ANSWER, found, {'accuracy': (float(right), 1.0)})
