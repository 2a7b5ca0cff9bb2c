"""HallusionBench (arXiv 2310.14566): yes or no about a figure and its altered copies, and three accuracies."""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Item, Outcome, Sampling, Task, each, user_message
from bench.vlm.pictures import folder_of, picture_of, picture_part
from bench.vlm.short_answers import check_rule
from bench.vlm.text_in_pictures import without_punctuation
from rl.rewards.extract import conclusion, final_answer

PROMPT = 'Please answer yes or no.'
_WORD = re.compile(r'\b(yes|no)\b', re.IGNORECASE)
_FIRST = re.compile(r'\W*(yes|no)\b', re.IGNORECASE)
_GOLDS = {'1': 'yes', '0': 'no', 'yes': 'yes', 'no': 'no'}


def hallusionbench(*, rule: str = 'strict') -> Task:
  """HallusionBench: aAcc over questions, fAcc over figures and qAcc over questions with all of their pictures right.

  rule: strict (what the output commits to after its thoughts) or vlmevalkit (one of yes and no among its words).
  """
  check_rule(rule)
  read = one_of_two if rule == 'vlmevalkit' else yes_or_no
  return Task(
    name='hallusionbench',
    primary='accuracy',
    template=PROMPT,
    load=_load,
    prompt=_prompt,
    score=each(functools.partial(_score, read=read)),
    sampling=Sampling(max_tokens=512),
    settings={'rule': rule},
    group_metrics=('accuracy',),
    extras=three_accuracies,
  )


def three_accuracies(items: Sequence[Item]) -> dict[str, float]:
  """aAcc, fAcc and qAcc in percent, as published: the share of questions, of figures, of questions of a set."""
  figure = lambda f: (f['category'], f['set'], f['figure'])
  question = lambda f: (f['category'], f['set'], f['question_id'])
  right = [item.scores['accuracy'][0] for item in items]
  return {
    'aAcc': 100 * sum(right) / max(1, len(right)),
    'fAcc': _all_right(items, figure),
    'qAcc': _all_right(items, question),
  }


def _all_right(items: Sequence[Item], unit: Callable[[Mapping], tuple]) -> float:
  """The share of units, in percent, all of whose questions are right."""
  units = defaultdict(list)
  for item in items:
    units[unit(item.example.fields)].append(item.scores['accuracy'][0] == 1)
  return 100 * sum(map(all, units.values())) / max(1, len(units))


def yes_or_no(text: str) -> str | None:
  """What an output answers: the first word of its marked answer or of its text, else the last one; None for neither."""
  said = conclusion(text)
  for part in (final_answer(text) or '', said):
    if first := _FIRST.match(part):
      return first[1].lower()
  words = _WORD.findall(said)
  if words:
    return words[-1].lower()
  return None


def one_of_two(text: str) -> str | None:
  """What an output answers by VLMEvalKit's rule without a judge: None unless exactly one of yes and no is a word."""
  words = set(without_punctuation(text.lower()).split())
  said = words & {'yes', 'no'}
  if len(said) == 1:
    return said.pop()
  return None


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  gold = _GOLDS.get(str(row.get('gt_answer', row.get('answer', ''))).strip().lower())
  if gold is None:
    raise RowError('answer is neither yes nor no')
  category, *place = _place(row)
  group, figure, question_id = place
  fields = {
    'question': need(row, 'question'),
    'gold': gold,
    'picture': picture_of(row, folder),
    'category': category,
    'set': group,
    'figure': figure,
    'question_id': question_id,
  }
  key = row_id(row, '_'.join((category, group, figure, question_id)), 'index')
  kind = str(row.get('category') or 'all')
  return Example(key, fields, {'category': kind, 'subcategory': category}, cluster=f'{category}_{group}')


def _place(row: Mapping) -> list[str]:
  """(subcategory, set, figure, question): columns of the public file, or parts of VLMEvalKit's index."""
  names = ('subcategory', 'set_id', 'figure_id', 'question_id')
  if all(row.get(name) not in (None, '') for name in names):
    return [str(row[name]) for name in names]
  parts = str(row.get('index', '')).split('_')
  category = row.get('l2-category')
  if category is None or len(parts) < 6:
    raise RowError('missing:set_id')
  return [str(category), *parts[3:6]]


def _prompt(example: Example) -> list[dict]:
  picture = []
  if example.fields['picture']:
    picture = [picture_part(example.fields['picture'])]
  return user_message(*picture, f'{example.fields["question"]}\n{PROMPT}')


def _score(example: Example, answer: Answer, *, read: Callable[[str], str | None]) -> Outcome:
  said = read(answer.text)
  right = said == example.fields['gold']
  return Outcome(OK if said else NO_ANSWER, said, {'accuracy': (float(right), 1.0)})
