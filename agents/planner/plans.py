"""Plans as models write them: JSON somewhere in a text, checked and bounded, never executed."""

import dataclasses
import json
import re

from core.text import clean, parse_json

MAX_STEPS = 20
MAX_DESCRIPTION = 4000  # characters of one step
MAX_TEXT = 200_000  # characters that are searched for a plan
MAX_STARTS = 64  # braces at which JSON may begin
FINAL = 'FINAL ANSWER:'
# The mark as models write it: after Markdown, quotes and invisible marks, in bold that may end before the colon. No
# part is tried twice, so any text takes linear time.
MARK = re.compile(r'(?P<opening>[\s*#>_\-`"\'“‘|\u200b\ufeff]*+)FINAL\s++ANSWER\s*+(?P<closed>[*_]*+)\s*+[:：]', re.I)
CLOSING = {'“': '”', '‘': '’'}


@dataclasses.dataclass(frozen=True)
class Step:
  """One task of a plan."""

  id: int
  description: str


@dataclasses.dataclass(frozen=True)
class Plan:
  """Tasks in the order they are carried out."""

  steps: tuple[Step, ...]

  def to_json(self) -> str:
    """The plan as text, as the planner is asked to write it."""
    return json.dumps({'plan': [dataclasses.asdict(step) for step in self.steps]}, ensure_ascii=False)


class PlanError(ValueError):
  """A text without a usable plan; the message is what the planner is told."""


def final_answer(text: str) -> str | None:
  """What the last line with the final-answer mark gives; None without one, or where it gives nothing.

  The mark must begin its line, after Markdown and quotes at most: a sentence that speaks of a final answer is none. The
  answer is the rest of the line, or else the next line that is not blank.
  """
  lines = text.splitlines()
  for number in reversed(range(len(lines))):
    line = lines[number]
    if found := MARK.match(line):
      opening = found['opening'].strip()
      if found['closed']:
        opening = opening.removesuffix(found['closed'])
      rest = [line[found.end() :], *lines[number + 1 :]]
      answers = (_undecorated(part, opening) for part in rest)
      return next(filter(None, answers), None)
  return None


def _undecorated(line: str, opening: str) -> str:
  """An answer without what was opened before its mark, and without emphasis, code marks or a fence of its own."""
  line = line.strip()
  if '**' in opening:
    line = line.removeprefix('**').partition('**')[0] or line
  for mark in ('**', '`'):
    if line.startswith(mark):
      line = line.removeprefix(mark).partition(mark)[0]
  closing = ''.join(CLOSING.get(mark, mark) for mark in opening)
  return line.strip().strip('*' + closing).strip()


def parse_plan(text: str) -> Plan:
  """The first plan in a text: bare, in a Markdown fence, or among other words. Raises PlanError."""
  reason = 'there is no JSON object in it'
  decoder = json.JSONDecoder()
  starts = 0
  at = text.find('{')
  if len(text) > MAX_TEXT:
    raise PlanError(f'it has {len(text)} characters, more than {MAX_TEXT}')
  while at >= 0 and starts < MAX_STARTS:
    starts += 1
    try:
      value, _ = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
      at = text.find('{', at + 1)
      continue
    try:
      return _plan(value)
    except PlanError as error:
      reason = str(error)
      at = text.find('{', at + 1)
  raise PlanError(reason)


def _plan(value) -> Plan:
  items = None
  if isinstance(value, dict):
    items = value.get('plan')
  if not isinstance(items, list):
    raise PlanError('the object has no list called "plan"')
  if not 0 < len(items) <= MAX_STEPS:
    raise PlanError(f'the plan has {len(items)} tasks, expected 1 to {MAX_STEPS}')
  steps = []
  for number, item in enumerate(items, 1):
    description = None
    if isinstance(item, dict):
      description = item.get('description')
    if not isinstance(description, str) or not description.strip():
      raise PlanError(f'task {number} has no description')
    if len(description) > MAX_DESCRIPTION:
      raise PlanError(f'task {number} has a description of more than {MAX_DESCRIPTION} characters')
    given = item.get('id')
    is_number = isinstance(given, int) and abs(given) < 10**6
    steps.append(Step(given if is_number else number, clean(description).strip()))
  return Plan(tuple(steps))


def numbered(plan: str) -> str:
  """A stored plan as numbered lines; as it is where it cannot be read."""
  try:
    steps = _plan(parse_json(plan)).steps
    return '\n'.join(f'{n}. {step.description}' for n, step in enumerate(steps, 1))
  except ValueError:
    return plan
