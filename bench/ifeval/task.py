"""IFEval as a task: prompts with one to three instructions, and four accuracies."""

import inspect
from collections.abc import Mapping, Sequence

from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, each
from bench.ifeval.checks import CHECKS, followed, loose
from rl.rewards.extract import strip_thoughts


def ifeval() -> Task:
  """IFEval: the share of prompts whose instructions are all followed, and of instructions; strict and loose."""
  return Task(
    name='ifeval',
    primary='prompt strict',
    template='',
    load=_load,
    prompt=lambda example: [{'role': 'user', 'content': example.fields['prompt']}],
    score=each(_score),
    sampling=Sampling(max_tokens=4096),
    metric_order=('prompt strict', 'instruction strict', 'prompt loose', 'instruction loose'),
    group_metrics=('prompt strict',),
  )


def _load(path: str) -> Data:
  return load_examples(path, _example)


def _example(where: str, row: Mapping) -> Example:
  names = need(row, 'instruction_id_list', list)
  arguments = need(row, 'kwargs', list)
  if not names or len(names) != len(arguments):
    raise RowError(f'{len(names)} instructions with arguments of {len(arguments)}')
  for name, given in zip(names, arguments):
    _check(name, given)
  fields = {'prompt': need(row, 'prompt'), 'instructions': tuple(zip(names, arguments))}
  kinds = {name.partition(':')[0] for name in names}
  group = 'several'
  if len(kinds) == 1:
    group = kinds.pop()
  return Example(row_id(row, where, 'key', 'id'), fields, {'kind': group})


def _check(name: str, given: Mapping) -> None:
  """Raises RowError for an unknown instruction and for arguments that its check does not take."""
  if name not in CHECKS:
    raise RowError(f'instruction {name!r} is unknown')
  wanted = set(list(inspect.signature(CHECKS[name]).parameters)[1:])
  got = {key for key, value in (given or {}).items() if value is not None}
  if got != wanted:
    raise RowError(f'{name} has arguments {sorted(got)}, expected {sorted(wanted)}')


def _score(example: Example, answer: Answer) -> Outcome:
  response = strip_thoughts(answer.text).strip()
  strict = [followed(name, given, response) for name, given in example.fields['instructions']]
  forms = loose(response)
  relaxed = [any(followed(name, given, form) for form in forms) for name, given in example.fields['instructions']]
  detail = {name: verdict for (name, _), verdict in zip(example.fields['instructions'], strict)}
  return Outcome(
    OK if response else NO_ANSWER, None, _accuracies('strict', strict) | _accuracies('loose', relaxed), detail
  )


def _accuracies(kind: str, verdicts: Sequence[bool]) -> dict[str, tuple[float, float]]:
  return {
    f'prompt {kind}': (float(all(verdicts)), 1.0),
    f'instruction {kind}': (float(sum(verdicts)), float(len(verdicts))),
  }
