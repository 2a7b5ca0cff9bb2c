"""VSI-Bench (arXiv 2412.14171): questions about the space that a video shows, by choices and by numbers."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Item, Outcome, Sampling, Task, each, user_message
from bench.vlm.answers import letters
from bench.vlm.pictures import folder_of
from internvl.inputs import video
from rl.rewards.extract import conclusion, final_answer

PREAMBLE = 'These are frames of a video.'
LETTER = "Answer with the option's letter from the given choices directly."
NUMBER = 'Please answer the question using a single word or phrase.'
# Relative errors that are accepted: 1 - θ of the confidences θ = 0.50, 0.55, … 0.95.
TOLERANCES = tuple(k / 100 for k in range(50, 0, -5))
_ROUNDING = 1e-9  # so that an error of exactly a tolerance counts, as decimals would have it
_OPTION = re.compile(r'\s*([A-F])[.)]\s*(.*)', re.DOTALL)
_VALUE = re.compile(r'-?\d[\d,]*(?:\.\d+)?|-?\.\d+')
_DIFFICULTY = re.compile(r'_(?:easy|medium|hard)$')


def vsibench(*, frames: int = 16) -> Task:
  """VSI-Bench. frames: of each video, which is dataset/scene_name.mp4 in the folder of the questions."""
  if frames < 1:
    raise ValueError(f'frames is {frames}, expected 1 or more')
  return Task(
    name='vsibench',
    primary='score',
    template='\n'.join((PREAMBLE, LETTER, NUMBER)),
    load=_load,
    prompt=functools.partial(_prompt, frames=frames),
    score=each(_score),
    sampling=Sampling(max_tokens=512),
    settings={'frames': frames},
    group_metrics=('score',),
    extras=mean_over_kinds,
  )


def relative_accuracy(value: float, target: float) -> float:
  """Mean relative accuracy: the share of TOLERANCES that |value − target| / target stays within."""
  error = abs(value - target) / abs(target) if target else math.inf
  return sum(error <= tolerance + _ROUNDING for tolerance in TOLERANCES) / len(TOLERANCES)


def mean_over_kinds(items: Sequence[Item]) -> dict[str, float]:
  """The published overall score in percent: the mean over the kinds of questions of their mean scores.

  The score of relative directions is the mean over their three difficulties.
  """
  types = defaultdict(list)
  for item in items:
    types[item.example.groups['type']].append(item.scores['score'][0])
  kinds = defaultdict(list)
  for name, scores in types.items():
    kinds[_DIFFICULTY.sub('', name)].append(_mean(scores))
  return {'overall': 100 * _mean([_mean(means) for means in kinds.values()])}


def _mean(values: Sequence[float]) -> float:
  return sum(values) / max(1, len(values))


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  kind = need(row, 'question_type')
  source = str(row.get('dataset', ''))
  scene = str(row.get('scene_name', ''))
  path = folder / source / f'{scene}.mp4'
  if not path.is_file():
    raise RowError(f'video not found: {source}/{scene}.mp4')
  options = _options(row.get('options'))
  gold = str(row.get('ground_truth', '')).strip()
  target = None if options else _number(gold)
  if options and gold not in options:
    raise RowError(f'ground_truth {gold!r} is not among the options')
  if not options and target is None:
    raise RowError(f'ground_truth is not a number: {gold[:40]!r}')
  fields = {'question': need(row, 'question'), 'options': options, 'gold': gold, 'target': target, 'video': str(path)}
  return Example(row_id(row, where), fields, {'type': kind, 'source': source or 'all'}, cluster=f'{source}/{scene}')


def _options(listed) -> dict[str, str]:
  matches = [_OPTION.fullmatch(str(option)) for option in (listed or ())]
  if not all(matches):
    raise RowError('options do not begin with letters')
  return {match[1]: match[2] for match in matches}


def _prompt(example: Example, *, frames: int) -> list[dict]:
  f = example.fields
  pictures = [{'type': 'image', 'image': frame} for frame in video.load_frames(f['video'], frames)]
  listed = [f'{letter}. {option}' for letter, option in f['options'].items()]
  head = ['Options:', *listed, LETTER] if listed else [NUMBER]
  return user_message(*pictures, '\n'.join([PREAMBLE, f['question'], *head]))


def _score(example: Example, answer: Answer) -> Outcome:
  f = example.fields
  if f['options']:
    letter = letters.chosen(answer.text, f['options'])
    return Outcome(OK if letter else NO_ANSWER, letter, {'score': (float(letter == f['gold']), 1.0)})
  value = _number(final_answer(answer.text) or conclusion(answer.text))
  if value is None:
    return Outcome(NO_ANSWER, None, {'score': (0.0, 1.0)})
  return Outcome(OK, f'{value:g}', {'score': (relative_accuracy(value, f['target']), 1.0)})


def _number(text: str) -> float | None:
  """The first number of a text, finite; None without one."""
  found = _VALUE.search(text[:2_000])
  value = float(found[0].replace(',', '')) if found else math.inf
  if math.isfinite(value):
    return value
  return None
