r"""A visual task in several steps, from real data: three handwritten digits and an expression over them.

The image shows digits A, B, C (`core.toy.digits.scans`, training and held-out scans disjoint); the question is such as
`A-(B*C)`; the answer is worked out in a think block and given in a box: `<think>3-(4*5)=3-20=-17</think>\boxed{-17}`.
Examples are a function of (split, seed, index).
"""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import digits

OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul}
WIDTH = 48
HEIGHT = 16
_SIGNS = tuple(OPERATORS)
_BLOCK = 4096


class Example(NamedTuple):
  """image: RGB, 48 × 16. solution: a right answer as one would write it. answer: the number in its box."""

  image: Image.Image
  question: str
  answer: str
  solution: str
  digits: tuple[int, int, int]


class Expression(NamedTuple):
  """A∘(B∘C) when `right`, else (A∘B)∘C, with two of `OPERATORS`."""

  first: str
  second: str
  right: bool

  def text(self, a, b, c) -> str:
    """The expression over anything that prints."""
    if self.right:
      return f'{a}{self.first}({b}{self.second}{c})'
    return f'({a}{self.first}{b}){self.second}{c}'

  def steps(self, a: int, b: int, c: int) -> tuple[str, int]:
    """(the expression after its bracket is worked out, its value)."""
    if self.right:
      inner = OPERATORS[self.second](b, c)
      return f'{a}{self.first}{_bracketed(inner)}', OPERATORS[self.first](a, inner)
    inner = OPERATORS[self.first](a, b)
    return f'{inner}{self.second}{c}', OPERATORS[self.second](inner, c)


def _bracketed(number: int) -> str:
  if number < 0:
    return f'({number})'
  return str(number)


class _Draws(NamedTuple):
  digits: np.ndarray  # [_BLOCK, 3] rows of the split
  signs: np.ndarray  # [_BLOCK, 2]
  right: np.ndarray  # [_BLOCK]


@functools.lru_cache(maxsize=16)
def _block(split: str, seed: int, block: int) -> _Draws:
  scans = digits.scans(split)
  rng = np.random.default_rng((seed, block, digits.SPLITS.index(split), len(OPERATORS)))
  return _Draws(
    rng.integers(len(scans.labels), size=(_BLOCK, 3)),
    rng.integers(len(_SIGNS), size=(_BLOCK, 2)),
    rng.integers(2, size=_BLOCK),
  )


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed); split is 'train' or 'heldout'."""
  if index < 0:
    raise ValueError(f'an example index must not be negative: {index}')
  scans = digits.scans(split)
  draws = _block(split, seed, index // _BLOCK)
  at = index % _BLOCK
  rows = draws.digits[at]
  expression = Expression(*(_SIGNS[i] for i in draws.signs[at]), bool(draws.right[at]))
  shown = tuple(int(scans.labels[row]) for row in rows)
  step, value = expression.steps(*shown)
  solution = f'<think>{expression.text(*shown)}={step}={value}</think>\\boxed{{{value}}}'
  image = Image.fromarray(np.concatenate([scans.pixels[row] for row in rows], axis=1))
  return Example(image, expression.text('A', 'B', 'C'), str(value), solution, shown)
