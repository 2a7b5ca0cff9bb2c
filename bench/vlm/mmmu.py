"""MMMU (arXiv 2311.16502) and MMMU-Pro (arXiv 2409.02813): college questions about pictures."""

import functools
import re
from collections.abc import Mapping

from bench.harness.task import Sampling, Task
from bench.vlm import choices
from bench.vlm.answers import judges

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
_SUBJECT = re.compile(r'(?:dev|validation|test)_(\w+?)_\d+')


def mmmu(*, rule: str = 'strict', guess: bool = False, judge=None, judgements: str = '') -> Task:
  """MMMU. rule: strict, official or vlmevalkit. guess: a seeded random option for what the rule cannot read.

  judgements: file of verdicts by option (vlmevalkit rule), read and added to.
  """
  choices.check_rule(rule)
  if judgements and rule != 'vlmevalkit':
    raise ValueError(f'judgements are for rule=vlmevalkit; rule is {rule!r}')
  asked = judges.option_judge(judge, judgements)
  return Task(
    name='mmmu',
    primary='accuracy',
    template=f'{choices.LETTER}\n{choices.SHORT}',
    load=functools.partial(choices.load, groups=_groups),
    prompt=functools.partial(choices.prompt, instruction=choices.LETTER),
    score=functools.partial(choices.score, rule=rule, guess=guess, judge=asked, line_first=False),
    sampling=Sampling(max_tokens=1024),
    settings={'rule': rule, 'guess': guess, **(asked.settings() if asked else {})},
    group_metrics=('accuracy', 'parsed'),
  )


def mmmu_pro(*, steps: bool = True, rule: str = 'strict', guess: bool = False) -> Task:
  """MMMU-Pro, either variant. rule: as of mmmu, official and vlmevalkit after a last line "Answer: X".

  steps: ask for reasoning first.
  """
  choices.check_rule(rule)
  instruction = STEPS if steps else DIRECT
  return Task(
    name='mmmu_pro',
    primary='accuracy',
    template=instruction,
    load=functools.partial(choices.load, groups=_groups),
    prompt=functools.partial(choices.prompt, instruction=instruction),
    score=functools.partial(choices.score, rule=rule, guess=guess, judge=None, line_first=True),
    sampling=Sampling(max_tokens=4096),
    settings={'rule': rule, 'guess': guess, 'steps': steps},
    group_metrics=('accuracy', 'parsed'),
  )


def _groups(row: Mapping, key: str) -> dict[str, str]:
  named = _SUBJECT.fullmatch(key)
  subject = str(row.get('subject') or row.get('category') or (named[1] if named else 'all'))
  discipline = row.get('l2-category') or _DISCIPLINE.get(subject.replace(' ', '_'), 'other')
  return {'discipline': str(discipline), 'subject': subject}
