"""Where queries come from, and what an answer to one is worth."""

import dataclasses
from collections.abc import Callable
from typing import Any

from internvl import digits, expressions
from rl.rewards import boxed, boxed_and_format, exact_match


@dataclasses.dataclass(frozen=True)
class Query:
  """messages and images as `internvl.Processor` takes them; `answer` is what the reward compares with.

  solution: a right answer written out, to learn from before reinforcement; by default `answer`.
  """

  messages: list[dict]
  images: list[Any]
  answer: str
  solution: str = ''

  def __post_init__(self):
    if not self.solution:
      object.__setattr__(self, 'solution', self.answer)


def digits_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the digits task: two handwritten digits and a question (`internvl.digits`)."""
  item = digits.example(split, seed, index)
  return Query([{'role': 'user', 'content': f'<image>\n{item.question}'}], [item.image], item.answer)


def expressions_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the expressions task: three handwritten digits and two operations (`internvl.expressions`)."""
  item = expressions.example(split, seed, index)
  messages = [{'role': 'user', 'content': f'<image>\n{item.question}'}]
  return Query(messages, [item.image], item.answer, item.solution)


@dataclasses.dataclass(frozen=True)
class Task:
  """query(split, seed, index) is one of an endless stream; reward and right take (answer, reference).

  reward trains; right is 1 or 0 and is what accuracy counts.
  """

  query: Callable[[str, int, int], Query]
  reward: Callable[[str, str], float]
  right: Callable[[str, str], float]


TASKS = {
    'digits': Task(digits_query, exact_match, exact_match),
    'expressions': Task(expressions_query, boxed_and_format, boxed),
}
