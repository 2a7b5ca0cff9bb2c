"""Options of a run of Vision-SR1."""

import dataclasses
from typing import Literal

from core.launch.fields import field
from rl.rollout.vision_sr1 import prompts
from rl.rollout.vision_sr1.generations import GENERATIONS, Generation

Name = Literal[('off', *GENERATIONS)]


@dataclasses.dataclass(frozen=True)
class Sr1:
  """Which generation, and what may be changed in it."""

  generation: Name = field(
    'off', 'published algorithm, by the names of rl/rollout/vision_sr1/generations.py; off: none'
  )
  targets: Literal['own', 'y2', 'y1_description', 'y1_all'] = field(
    'own', "tokens that a separate advantage of the description trains; own: the generation's"
  )
  leaky: bool = field(False, 'without description tags the second pass reads the whole first response, as released')
  first: str = field('', "instruction of the first pass; '': that of the generation")
  released: bool = field(False, 'the released template of the first pass: backslash-n for line breaks, a final period')
  second: str = field(prompts.SECOND, 'prompt of the second pass, with {description} and {question}')

  def __post_init__(self):
    for place in ('{description}', '{question}'):
      if place not in self.second:
        raise ValueError(f'second={self.second[:60]!r}…: expected {place} in it')
    if self.targets != 'own' and self.generation not in ('off', 'p2'):
      raise ValueError(f'targets={self.targets!r}, generation={self.generation!r}: expected targets=own, or p2')

  @property
  def published(self) -> Generation:
    """The generation, with the targets asked for. Raises KeyError where it is off."""
    made = GENERATIONS[self.generation]
    if self.targets == 'own':
      return made
    return dataclasses.replace(made, targets=self.targets)

  @property
  def instruction(self) -> str:
    """What follows each question in the first pass."""
    if self.first:
      return self.first
    if self.released:
      return prompts.FIRST_RELEASED
    if self.published.describes:
      return prompts.FIRST
    return prompts.REASON_ONLY
