r"""Sums of two handwritten digits with a planted language shortcut: the question tells the answer in 9 of 10 cases.

The question is such as `Sum? (11)`; the number in brackets is the sum with probability `TOLD`, else another one. A
policy that reads it is often right without looking. Solutions describe, reason and box:
`<description>4 7</description><think>4+7</think>\boxed{11}`; guesses take the shortcut and describe digits at random.
Examples are a function of (split, seed, index).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import digits

TOLD = 0.9
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
  hint = total
  rng = np.random.default_rng((seed, index, digits.SPLITS.index(split), LARGEST))
  if rng.random() >= TOLD:
    others = [number for number in range(LARGEST + 1) if number != total]
    hint = int(rng.choice(others))
  return Example(
    image=item.image,
    question=f'Sum? ({hint})',
    answer=str(total),
    solution=written(f'{left} {right}', f'{left}+{right}', total),
    digits=item.digits,
    hint=hint,
  )


def written(description: str, thought: str, answer: int) -> str:
  """A response in the form that is asked for."""
  return f'<description>{description}</description><think>{thought}</think>\\boxed{{{answer}}}'


def guess(question: str, seed: int) -> str:
  """A response by someone who did not look: the number in the question, and a description of random digits."""
  _, _, bracketed = question.rpartition('(')
  number, _, _ = bracketed.partition(')')
  hint = int(number)
  left, right = np.random.default_rng(seed).integers(0, 10, 2)
  return written(f'{left} {right}', str(hint), hint)


def sufficient(description: str, shown: tuple[int, int]) -> bool:
  """Whether a description names the digits that are shown, in either order: a judge that cannot err."""
  named = [int(word) for word in description.split() if word.isdecimal()]
  return sorted(named) == sorted(shown)
