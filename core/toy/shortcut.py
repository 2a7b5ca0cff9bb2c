r"""Sums of two handwritten digits with a planted language shortcut: the question tells the answer in 7 of 10 cases.

The question is such as `Sum? (11)`; the number in brackets is the sum with probability `TOLD`, else another one. A
policy that reads it is often right without looking. Solutions describe, reason and box:
`<description>4 7</description><think>4+7</think>\boxed{11}`. Examples are a function of (split, seed, index).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import digits

TOLD = 0.7
LARGEST = 18  # sum of two digits


class Example(NamedTuple):
  """image: RGB, 32 × 16. digits: what it shows. hint: the number in the question."""

  image: Image.Image
  question: str
  answer: str
  solution: str
  digits: tuple[int, int]
  hint: int


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed); split is 'train' or 'heldout'."""
  item = digits.example(split, seed, index)
  left, right = item.digits
  total = left + right
  rng = np.random.default_rng((seed, index, digits.SPLITS.index(split), LARGEST))
  others = [number for number in range(LARGEST + 1) if number != total]
  hint = total if rng.random() < TOLD else int(rng.choice(others))
  solution = f'<description>{left} {right}</description><think>{left}+{right}</think>\\boxed{{{total}}}'
  return Example(item.image, f'Sum? ({hint})', str(total), solution, item.digits, hint)


def sufficient(description: str, shown: tuple[int, int]) -> bool:
  """Whether a description names the digits that are shown, in either order: a judge that cannot err."""
  named = [int(word) for word in description.split() if word.isdecimal()]
  return sorted(named) == sorted(shown)
