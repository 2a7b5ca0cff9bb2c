"""A question to a policy; light to import, since every process that computes rewards does."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Query:
  """What a policy is asked, and what its rewards compare with.

  messages: conversation turns {'role', 'content'} up to where the policy answers. images: as the policy takes them.
  answer: the right answer. solution: a right answer written out, to learn from before reinforcement; by default
  `answer`.
  """

  messages: list[dict]
  images: list[Any] = dataclasses.field(default_factory=list)
  answer: str = ''
  solution: str = ''

  def __post_init__(self):
    if not self.solution:
      object.__setattr__(self, 'solution', self.answer)
