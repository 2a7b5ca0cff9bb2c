"""What a tool-using policy is asked: products that it cannot work out itself, or the lines of a JSONL file."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence

import numpy as np

from agents.rollout.protocol import Protocol
from agents.rollout.sft import Example, example
from agents.toolbox import arguments_text
from rl.policy import Trajectory
from rl.policy.text import TextPrompt
from rl.query import Query
from rl.tasks import Task

TOOL = 'python'
# What every conversation repeats, one token each in the tiny tokenizer.
PHRASES = (
  'user\n',
  'assistant\n',
  'Tool call success\nstdout: ',
  'Tool call failure\nreason: \nstderr: ',
  f'{{"name": "{TOOL}", "arguments": {{"code": "',
  '", "input": ""}}',
  'print(',
  '\\boxed{',
  "SyntaxError at line 1: '(' was never closed\n    ",
)


@dataclasses.dataclass(frozen=True)
class Problem:
  """A question and its answer."""

  question: str
  answer: str


def product(split: str, seed: int, index: int) -> Problem:
  """Product `index` of an endless stream: two numbers of three or four digits."""
  draw = np.random.default_rng([seed, index, {'train': 0, 'heldout': 1}[split]])
  while True:
    bounds = [10 ** int(digits) for digits in draw.integers(3, 5, 2)]
    a, b = (int(draw.integers(100, bound)) for bound in bounds)
    # Which pairs are held out depends on the numbers, so none is ever trained on.
    if ((a * 7919 + b) % 5 == 0) == (split == 'heldout'):
      return Problem(f'{a}*{b}', str(a * b))


def demonstration(problem: Problem, kind: str, render: Callable[[Sequence[dict]], Example]) -> Example:
  """A right answer to a product, in one of three ways.

  'call'   by the tool
  'slip'   by the tool, after a first program with an error in it
  'guess'  at once, without the tool: right here, but nothing that a small policy could learn to do
  """
  calls = {
    'call': [f'print({problem.question})'],
    'slip': [f'print({problem.question}', f'print({problem.question})'],
    'guess': [],
  }[kind]
  turns = [{'role': 'user', 'content': problem.question}]
  for code in calls:
    called = {'name': TOOL, 'arguments': arguments_text({'code': code, 'input': ''})}
    said = (
      f'Tool call success\nstdout: {problem.answer}'
      if code.endswith(')')
      else f"Tool call failure\nreason: \nstderr: SyntaxError at line 1: '(' was never closed\n    {code}"
    )
    turns += [
      {'role': 'assistant', 'content': '</reason>', 'tool_calls': [{'function': called}]},
      {'role': 'tool', 'content': said},
    ]
  turns.append({'role': 'assistant', 'content': f'</reason><answer>\\boxed{{{problem.answer}}}</answer>'})
  return render(turns)


def demonstrations(seed: int, start: int, n: int, shares: Sequence[float], protocol) -> list[Example]:
  """Demonstrations start..start+n−1 of an endless stream; shares: of 'call', 'slip' and 'guess'."""
  found = []
  for index in range(start, start + n):
    kind = np.random.default_rng([seed, index, 2]).choice(['call', 'slip', 'guess'], p=shares)
    found.append(demonstration(product('train', seed, index), str(kind), lambda turns: example(turns, protocol)))
  return found


def demonstration_trajectories(
  protocol: Protocol, seed: int, shares: Sequence[float]
) -> Callable[[Sequence[int]], list[Trajectory]]:
  """From numbers of an endless stream to demonstrations: whole rows, of which the assistant's part is learned."""

  def examples(numbers: Sequence[int]) -> list[Trajectory]:
    found = demonstrations(seed, numbers[0], len(numbers), shares, protocol)
    nothing = TextPrompt(np.zeros(0, np.int32))
    trajectories = []
    for shown in found:
      ids = np.array(shown.ids, np.int32)
      mask = np.array(shown.mask)
      logp = np.zeros(len(ids), np.float32)
      trajectories.append(Trajectory(nothing, ids, mask, logp))
    return trajectories

  return examples


def query_of(problem: Problem) -> Query:
  """A problem as a query."""
  return Query([{'role': 'user', 'content': problem.question}], answer=problem.answer)


def task_of(train: str, heldout: str, seed: int) -> Task:
  """The problems of two files, training ones reshuffled each epoch; of empty paths, products of two numbers."""
  if not train:
    return Task(lambda split, stream, index: query_of(product(split, stream, index)))
  files = {'train': read(train), 'heldout': read(heldout)}

  def query(split: str, stream: int, index: int) -> Query:
    rows = files[split]
    epoch, at = divmod(index, len(rows))
    if split == 'train':
      at = np.random.default_rng([seed, epoch]).permutation(len(rows))[at]
    return query_of(rows[at])

  return Task(query, heldout=len(files['heldout']))


def read(path: str | os.PathLike) -> list[Problem]:
  """Problems of a JSONL file, one {"problem": …, "answer": …} a line. Raises ValueError naming a malformed line."""
  found = []
  with open(path, encoding='utf-8') as lines:
    for number, line in enumerate(lines, 1):
      try:
        row = json.loads(line)
        found.append(Problem(str(row['problem']), str(row['answer'])))
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}, line {number}: expected an object with "problem" and "answer" ({error})') from None
  if not found:
    raise ValueError(f'{path}: no problems in it')
  return found
