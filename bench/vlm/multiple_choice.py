"""Multiple-choice benchmarks whose rows need no code of their own: AI2D, MMStar, RealWorldQA, ERQA."""

import functools
import re
from collections.abc import Mapping

from bench.harness.task import Sampling, Task
from bench.vlm import choices

_MARKS = {
  letter: re.compile(rf'^[ \t]*\(?{letter}[.):]\s*|(?<=\s)\(?{letter}[.):]\s+', re.MULTILINE) for letter in 'ABCDEF'
}
_END = re.compile(r'\s*(?:\b(?:Please|Answer)\b|$(?!\n))')


def ai2d(*, rule: str = 'strict', guess: bool = False) -> Task:
  """AI2D (arXiv 1603.07396): questions about school diagrams. rule: as of mmmu."""
  return _task('ai2d', rule, guess, names={'category': 'category'})


def mmstar(*, rule: str = 'strict', guess: bool = False) -> Task:
  """MMStar (arXiv 2403.20330): questions that need the picture, by six abilities. rule: as of mmmu."""
  return _task('mmstar', rule, guess, names={'ability': 'category', 'detail': 'l2_category'})


def realworldqa(*, rule: str = 'strict', guess: bool = False) -> Task:
  """RealWorldQA: pictures taken from vehicles and everyday life, choices and short answers. rule: as of mmmu."""
  return _task('realworldqa', rule, guess, names={'category': 'category'})


def erqa(*, rule: str = 'strict', guess: bool = False) -> Task:
  """ERQA (arXiv 2503.20020): embodied reasoning, one or several pictures a question. rule: as of mmmu."""
  return _task('erqa', rule, guess, names={'type': 'question_type'})


def _task(name: str, rule: str, guess: bool, *, names: Mapping[str, str]) -> Task:
  choices.check_rule(rule)
  groups = functools.partial(choices.columns, names=names)
  return Task(
    name=name,
    primary='accuracy',
    template=f'{choices.LETTER}\n{choices.SHORT}',
    load=functools.partial(choices.load, groups=groups, inline=inline_choices),
    prompt=functools.partial(choices.prompt, instruction=choices.LETTER),
    score=functools.partial(choices.score, rule=rule, guess=guess, judge=None, line_first=False),
    sampling=Sampling(max_tokens=1024),
    settings={'rule': rule, 'guess': guess},
    group_metrics=('accuracy', 'parsed'),
  )


def inline_choices(question: str) -> dict[str, str]:
  """Options by letter that are written out in the question; {} without two in order.

  They are written `A. left B. right`, `(A) left (B) right` or `A: left, B: right` (MMStar), or on lines of their own,
  where no blank follows the mark (MathVerse).
  """
  marks = []
  for mark in _MARKS.values():
    start = 0
    if marks:
      start = marks[-1].end()
    found = mark.search(question, start)
    if found is None:
      break
    marks.append(found)
  if len(marks) < 2:
    return {}
  ends = [mark.start() for mark in marks[1:]] + [_END.search(question, marks[-1].end()).start()]
  texts = (question[mark.end() : end] for mark, end in zip(marks, ends))
  return {letter: text.strip().rstrip(',;') for letter, text in zip(_MARKS, texts)}
