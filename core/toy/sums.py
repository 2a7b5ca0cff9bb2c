r"""A graded family of problems in text: sums of 2 to 7 numbers of one digit, the harder the longer.

The question is such as `3+5+9?`; the solution restates it, lists the running sums and boxes the last:
`3+5+9: 8 17 \boxed{17}`. Training and held-out questions are disjoint. Examples are a function of (split, seed, index).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

# Numbers of a sum.
LEAST = 2
MOST = 7
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
  asked_for = split == 'heldout'
  while True:
    count = rng.integers(LEAST, MOST + 1)
    terms = rng.integers(1, 10, count).tolist()
    if held_out(terms) == asked_for:
      return worked(terms)


def held_out(terms: list[int]) -> bool:
  """Whether a question belongs to the held-out ones: by its digits in their order, not by its sum."""
  weighted = (place * term for place, term in enumerate(terms, start=1))
  return sum(weighted) % _SHARES == 0


def worked(terms: list[int]) -> Example:
  """The sum of these numbers, worked out."""
  asked = '+'.join(map(str, terms))
  _, *running = itertools.accumulate(terms)
  steps = ' '.join(map(str, running))
  answer = str(running[-1])
  solution = f'{asked}: {steps} \\boxed{{{answer}}}'
  return Example(f'{asked}?', answer, solution, tuple(terms))


def variant(solution: str, seed: int) -> str:
  """Another question that a solution answers: two neighbouring numbers are exchanged, different ones if there are."""
  asked, _, _ = solution.partition(':')
  terms = [int(term) for term in asked.split('+')]
  different = [place for place, (left, right) in enumerate(itertools.pairwise(terms)) if left != right]
  if different:
    place = np.random.default_rng(seed).choice(different)
    terms[place : place + 2] = reversed(terms[place : place + 2])
  return worked(terms).question
