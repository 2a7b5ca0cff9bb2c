"""A judge that compares scores, such as CLIP's similarity of image and caption."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rl.rewards.pairwise import JudgeFailed


@dataclasses.dataclass(frozen=True)
class ScoreJudge:
  """The image with the higher score(prompt, image) wins; closer than `zone` is a tie.

  Scores that do not compare, of which one is not a number or both are infinite, raise JudgeFailed.
  """

  score: Callable[[str, Any], float]
  zone: float = 0.0

  def __post_init__(self):
    if not 0 <= self.zone < float('inf'):
      raise ValueError(f'zone={self.zone}: expected zero or a positive number')

  def __call__(self, prompt: str, first: Any, second: Any) -> str:
    scores = (self.score(prompt, first), self.score(prompt, second))
    difference = scores[0] - scores[1]
    if math.isnan(difference):
      raise JudgeFailed(f'scores {scores[0]} and {scores[1]} of {prompt!r:.80}: expected two numbers that compare')
    if abs(difference) <= self.zone:
      return 'tie'
    if difference > 0:
      return 'first'
    return 'second'


@dataclasses.dataclass(frozen=True)
class Similarity:
  """Cosine of the embeddings of a caption and an image, as CLIP scores them.

  text(prompt), image(image): float [D], of any length. Raises ValueError for an embedding of zeros.
  """

  text: Callable[[str], np.ndarray]
  image: Callable[[Any], np.ndarray]

  def __call__(self, prompt: str, image: Any) -> float:
    return float(_unit(self.text(prompt)) @ _unit(self.image(image)))


def _unit(vector: np.ndarray) -> np.ndarray:
  vector = np.asarray(vector, np.float64)
  length = np.linalg.norm(vector)
  if not length:
    raise ValueError('an embedding of zeros has no direction to compare')
  return vector / length
