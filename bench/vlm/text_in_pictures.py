"""Text in pictures: TextVQA (VQA accuracy over ten people's answers) and OCRBench (the answer is in the output)."""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from bench.harness.task import Example, Item, Task
from bench.vlm.short_answers import of_accepted, short_answer_task

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_BETWEEN_DIGITS = re.compile(r'\d,\d')
_FULL_STOP = re.compile(r'\.(?!\d)')
_KIT_FULL_STOP = re.compile(r'(?<!\d)\.(?!\d)')
_MOST_FULL_STOPS = 32  # re.UNICODE, which the published code gives for the number of replacements
_ARTICLES = frozenset(('a', 'an', 'the'))
_NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {'none': '0'}
# Words that are another word without their apostrophe (ill, well, id, hell, shell, were) stay as they are.
_CONTRACTIONS = """
  ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he's how'd how's i'm i've
  isn't let's might've mightn't must've mustn't needn't o'clock she's should've shouldn't somebody's someone's
  that's there's they'd they'll they're they've wasn't weren't what'll what're what's what've when's where'd
  where's where've who'd who'll who's who've why'd why's won't would've wouldn't y'all you'd you'll you're
  you've
"""
_APOSTROPHES = {word.replace("'", ''): word for word in _CONTRACTIONS.split()}
_KINDS = {'category': ('category', 'question_type', 'type'), 'dataset': ('dataset', 'dataset_name')}
FORMULAS = 'Handwritten Mathematical Expression Recognition'


def textvqa(*, rule: str = 'strict') -> Task:
  """TextVQA (arXiv 1904.08920): VQA accuracy, an answer is right as far as three other people gave it.

  rule: as of docvqa; vlmevalkit also keeps a full stop after a digit.
  """
  form = kit_form if rule == 'vlmevalkit' else normal_form
  accuracy = functools.partial(vqa_accuracy, form=form)
  return short_answer_task('textvqa', 'accuracy', of_accepted(functools.wraps(vqa_accuracy)(accuracy)), rule)


def ocrbench(*, rule: str = 'strict') -> Task:
  """OCRBench (arXiv 2305.07895): right if an accepted answer is part of the output; points in all and by category.

  rule: as of docvqa.
  """
  return short_answer_task('ocrbench', 'accuracy', contained, rule, groups=_KINDS, extras=points)


def normal_form(answer: str) -> str:
  """An answer as VQA compares it: lower case, digits, no articles, punctuation or lost apostrophes."""
  return _normal_words(without_punctuation(answer, _FULL_STOP))


def kit_form(answer: str) -> str:
  """`normal_form` as VLMEvalKit writes it, which keeps a full stop after a digit."""
  return _normal_words(without_punctuation(answer))


def vqa_accuracy(prediction: str, accepted: Sequence[str], *, form: Callable[[str], str] = normal_form) -> float:
  """The mean, over the people who answered, of min(1, others who gave this answer / 3) (VQA, arXiv 1505.00468).

  form: what two answers are compared by.
  """
  said = form(prediction)
  golds = list(map(form, accepted))
  same = golds.count(said)
  shares = [min(1.0, (same - (gold == said)) / 3) for gold in golds]
  return sum(shares) / len(shares)


def without_punctuation(text: str, full_stop: re.Pattern = _KIT_FULL_STOP) -> str:
  """`text` with VQA's punctuation dropped next to blanks and made blanks elsewhere; full_stop: those to drop."""
  given = text = ' '.join(text.split())
  has_thousands = _BETWEEN_DIGITS.search(given)
  for sign in _PUNCTUATION:
    at_blank = f'{sign} ' in given or f' {sign}' in given
    text = text.replace(sign, '' if at_blank or has_thousands else ' ')
  return full_stop.sub('', text, count=_MOST_FULL_STOPS)


def _normal_words(text: str) -> str:
  words = [_DIGITS.get(word, word) for word in text.lower().split()]
  return ' '.join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def contained(prediction: str, example: Example) -> float:
  """1 if an accepted answer is part of the output, case aside; for formulas blanks aside instead."""
  formula = example.groups.get('category') == FORMULAS
  said = _folded(prediction, formula)
  return float(any(_folded(gold, formula) in said for gold in example.fields['accepted']))


def _folded(text: str, formula: bool) -> str:
  text = text.strip().replace('\n', ' ')
  if formula:
    return text.replace(' ', '')
  return text.lower()


def points(items: Sequence[Item]) -> dict[str, float]:
  """The benchmark's score: points in all, which are out of 1,000 on the whole file, and by category."""
  totals = defaultdict(float)
  for item in items:
    totals[item.example.groups.get('category', 'all')] += item.scores['accuracy'][0]
  by_category = {f'points: {name}': total for name, total in sorted(totals.items())}
  return {'points': sum(totals.values())} | by_category
