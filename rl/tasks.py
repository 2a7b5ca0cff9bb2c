"""Where queries come from: each is a conversation, its images, and the answer that is rewarded."""

import dataclasses
from typing import Any

from internvl import digits, expressions
from rl.rewards import boxed_and_format, exact_match


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


TASKS = {'digits': digits_query, 'expressions': expressions_query}
REWARDS = {'digits': exact_match, 'expressions': boxed_and_format}  # of (answer, reference), by task
