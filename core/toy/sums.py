r"""A graded family of problems in text: sums of 2 to 6 numbers of one digit, the harder the longer.

The question is such as `3+5+9?`; the solution lists the running sums and boxes the last: `8 17 \boxed{17}`. Training
and held-out questions are disjoint. Examples are a function of (split, seed, index).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

# Numbers of a sum.
LEAST = 2
MOST = 6
SPLITS = ('train', 'heldout')
_SHARES = 5  # one question in five is held out


class Example(NamedTuple):
  """terms: the numbers. answer: their sum. solution: a right answer as one would write it."""

  question: str
  answer: str
  solution: str
  terms: tuple[int, ...]


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed). Raises ValueError for an unknown split."""
  if split not in SPLITS:
    raise ValueError(f'split {split!r}: expected one of {", ".join(SPLITS)}')
  rng = np.random.default_rng((seed, index, SPLITS.index(split)))
  while True:
    terms = rng.integers(1, 10, rng.integers(LEAST, MOST + 1)).tolist()
    if held_out(terms) == (split == 'heldout'):
      return worked(terms)


def held_out(terms: list[int]) -> bool:
  """Whether a question belongs to the held-out ones: by its digits in their order, not by its sum."""
  weighted = (place * term for place, term in enumerate(terms, start=1))
  return sum(weighted) % _SHARES == 0


def worked(terms: list[int]) -> Example:
  """The sum of these numbers, worked out."""
  running = list(map(str, itertools.accumulate(terms)))[1:]
  answer = running[-1]
  steps = ' '.join(running)
  question = '+'.join(map(str, terms)) + '?'
  return Example(question, answer, f'{steps} \\boxed{{{answer}}}', tuple(terms))


def variant(total: int, seed: int) -> str:
  """Another question whose answer is `total`, of a random length. Raises ValueError for a sum that no question has."""
  if not LEAST <= total <= 9 * MOST:
    raise ValueError(f'total={total}: expected {LEAST} to {9 * MOST}')
  rng = np.random.default_rng(seed)
  shortest = max(LEAST, -(-total // 9))
  count = rng.integers(shortest, min(MOST, total) + 1)
  terms = [1] * int(count)
  for _ in range(total - len(terms)):
    open_places = [i for i, term in enumerate(terms) if term < 9]
    terms[rng.choice(open_places)] += 1
  return worked(terms).question
