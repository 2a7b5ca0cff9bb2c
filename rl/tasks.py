"""Where queries come from: each is a conversation, its images, and the answer that is rewarded."""

import dataclasses
from typing import Any

from internvl import digits


@dataclasses.dataclass(frozen=True)
class Query:
  """messages and images as `internvl.Processor` takes them; `answer` is what the reward compares with."""

  messages: list[dict]
  images: list[Any]
  answer: str


def digits_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the digits task: two handwritten digits and a question (`internvl.digits`)."""
  item = digits.example(split, seed, index)
  return Query([{'role': 'user', 'content': f'<image>\n{item.question}'}], [item.image], item.answer)


TASKS = {'digits': digits_query}
