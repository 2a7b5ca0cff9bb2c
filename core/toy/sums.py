r"""Text problems of graded difficulty: sums of 2 to 7 numbers of one digit; longer sums are harder.

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
  """terms: the numbers. answer: their sum. solution: a correct response, worked out."""

  question: str
  answer: str
  solution: str
  terms: tuple[int, ...]


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed). Raises ValueError for an unknown split."""
  if split not in SPLITS:
    raise ValueError(f'split {split!r}: expected one of {", ".join(SPLITS)}')
  stream = SPLITS.index(split)
  rng = np.random.default_rng((seed, index, stream))
  wanted = split == 'heldout'
  while True:
    count = rng.integers(LEAST, MOST + 1)
    digits = rng.integers(1, 10, count)
    terms = digits.tolist()
    if held_out(terms) == wanted:
      return worked(terms)


def held_out(terms: list[int]) -> bool:
  """Whether a question is held out, which depends on its digits in their order, not on its sum."""
  weighted = [place * term for place, term in enumerate(terms, start=1)]
  return sum(weighted) % _SHARES == 0


def worked(terms: list[int]) -> Example:
  """The sum of these numbers, worked out."""
  asked = '+'.join(map(str, terms))
  _, *running = itertools.accumulate(terms)
  steps = ' '.join(map(str, running))
  answer = str(running[-1])
  return Example(
    question=f'{asked}?',
    answer=answer,
    solution=f'{asked}: {steps} \\boxed{{{answer}}}',
    terms=tuple(terms),
  )


def variant(solution: str, seed: int) -> str:
  """Another question with the same answer: two neighbouring numbers are exchanged, different ones if possible."""
  asked, _, _ = solution.partition(':')
  terms = [int(term) for term in asked.split('+')]
  pairs = enumerate(itertools.pairwise(terms))
  different = [place for place, (left, right) in pairs if left != right]
  if different:
    rng = np.random.default_rng(seed)
    place = rng.choice(different)
    left, right = terms[place : place + 2]
    terms[place : place + 2] = [right, left]
  return worked(terms).question
