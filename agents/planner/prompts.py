"""What the planner and the executor are told, and how cases are shown to the planner."""

from collections.abc import Sequence

from agents.memory import Found
from agents.planner.plans import FINAL, PlanError, numbered

PLANNER = f"""\
You lead a team of two. You think and plan; an executor with tools carries out one task at a time and reports back.
Reply in exactly one of two ways.

1. With a plan, as one JSON object and nothing else:
{{"plan": [{{"id": 1, "description": "..."}}, ...]}}
Use as few tasks as will do. Each must be understandable on its own, say what to find or compute, and from where.
Mind the dates that the question speaks of: an older or newer page may say something else.
You never call tools yourself. After the tasks are done you see their results and may plan what is still missing.

2. With the answer, as soon as the results support one, in one line that starts with:
{FINAL}
Give what was asked and no more: a number without separators or units unless they were asked for, a name or phrase
without article or abbreviation, a list as these separated by commas. You have few rounds: do not plan for perfection.
"""

EXECUTOR = f"""\
You carry out one task of a larger plan. Call tools where they help; they are described to you. When a tool fails, read
why and try another way. Then state the result briefly, with what it rests on. Do only the task that you are given, and
never write a line that starts with {FINAL}: the planner decides on the answer.
"""


def question_turn(question: str, task_id: str, attachments: Sequence[str]) -> dict:
  """The first turn: the task, its id and the files that belong to it, where there are any."""
  lines = [question]
  if task_id:
    lines.append(f'Task id: {task_id}')
  lines += [f'Attached file: {path}' for path in attachments]
  return {'role': 'user', 'content': '\n'.join(lines)}


def cases_turn(found: Sequence[Found], *, positives: int = 8, negatives: int = 8) -> dict | None:
  """Cases as one user turn, successes first, each group in order of rank; None without a case."""
  if not found:
    return None
  groups = (
    ('succeeded', positives, [f.case for f in found if f.case.positive]),
    ('failed', negatives, [f.case for f in found if not f.case.positive]),
  )
  parts = ['Earlier tasks and how they were planned.']
  for outcome, most, cases in groups:
    if not cases:
      continue
    shown = cases[:most]
    parts.append(f'Plans that {outcome} ({len(shown)} of {len(cases)} shown):')
    for n, case in enumerate(shown, 1):
      plan = numbered(case.plan) if case.positive else case.plan
      parts.append(f'Example {n}\nQuestion: {case.task}\nPlan:\n{plan or "(none)"}')
  parts.append('Plan the task above. Follow what made plans succeed where it fits, and avoid what made them fail.')
  return {'role': 'user', 'content': '\n\n'.join(parts)}


def task_turn(number: int, description: str) -> dict:
  """The turn that gives the executor its task."""
  return {'role': 'user', 'content': f'Task {number}: {description}'}


def result_turn(number: int, result: str) -> dict:
  """What the planner sees of a finished task."""
  return {'role': 'assistant', 'content': f'Task {number} result: {result}'}


def next_turn(last: bool) -> dict:
  """Asks the planner to continue after results; in the last round only for an answer."""
  wanted = 'Give the answer now, as well as you can.' if last else 'Give the answer, or a plan of what is missing.'
  return {'role': 'user', 'content': f'Those are the results. {wanted}'}


def refused_turn(error: PlanError) -> dict:
  """Tells the planner why its reply was neither an answer nor a plan."""
  return {
    'role': 'user',
    'content': f'That reply could not be used: {error}. Reply with one JSON plan, or with a line starting with {FINAL}',
  }
