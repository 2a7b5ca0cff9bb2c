"""Options of problem synthesis, and the two bands of accuracy."""

import dataclasses

import numpy as np

from core.launch.fields import field
from rl.rollout.dynamic import band
from rl.rollout.svs.prompts import PLACE, TEMPLATE


@dataclasses.dataclass(frozen=True)
class Synthesis:
  """How variants are written and rewarded (arXiv 2508.14029 §3; thresholds of the released code).

  The paper's controls: Eup is `rewrite=False`, SvS-Asp is `low=0.375, high=0.75`, Ext is a longer run of variants=0.
  """

  variants: int = field(0, 'variants written from each right response to a half-solved problem; 0: no synthesis')
  rewrite: bool = field(True, 'false: half-solved problems are sampled once more, and no variants are written')
  low: float = field(0.125, 'least share of right responses of a half-solved problem')
  high: float = field(0.5, 'greatest share of right responses of a half-solved problem')
  reward_low: float = field(0.125, 'least share of right responses of a variant that is rewarded')
  reward_high: float = field(0.625, 'greatest share of right responses of a variant that is rewarded; 1: any solvable')
  keep: float = field(1.0, 'share of the right responses that variants are written from')
  strict: bool = field(True, 'leave out groups of variants that are all rewarded, which have no advantage')
  leaks: bool = field(True, 'accept a variant that has its answer in a box')
  shuffle: bool = field(True, 'mix the kinds of groups among the updates; false: solutions, variants, their solutions')
  instruction: str = field('', 'of how to answer, appended to problems and variants, in training and evaluation')
  template: str = field(TEMPLATE, f'prompt that asks for a variant; {PLACE} becomes the solution')

  def __post_init__(self):
    if self.variants < 0 or self.variants == 1:
      raise ValueError(f'variants={self.variants}: expected 0, or 2 or more, since variants are compared')
    if not 0 < self.keep <= 1:
      raise ValueError(f'keep={self.keep}: expected a share above 0, at most 1')
    if PLACE not in self.template:
      raise ValueError(f'template={self.template[:60]!r}…: expected {PLACE} where the solution belongs')
    for low, high in ((self.low, self.high), (self.reward_low, self.reward_high)):
      band(np.zeros(1, int), 1, low, high)

  def half_solved(self, correct: int, samples: int) -> bool:
    """Whether a problem with `correct` right responses is varied; in exact fractions."""
    return bool(band(np.array([correct]), samples, self.low, self.high)[0])

  def rewarded(self, correct: int, samples: int) -> bool:
    """Whether a variant with `correct` right responses is rewarded; in exact fractions."""
    return bool(band(np.array([correct]), samples, self.reward_low, self.reward_high)[0])
