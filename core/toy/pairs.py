"""Sums of two numbers below 50, asked in words: what a small published language model half knows.

A pair and its exchange are on the same side of the split, so a held-out sum was never trained in either order. Examples
are a function of (split, seed, index).
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

LARGEST = 49
HELD_OUT = 245  # unordered pairs
QUESTION = 'What is {a} plus {b}? Answer with the number only.'


class Example(NamedTuple):
  """terms: the two numbers, in the order of the question."""

  question: str
  answer: str
  terms: tuple[int, int]


@functools.cache
def pairs(split: str) -> tuple[tuple[int, int], ...]:
  """The ordered pairs of a split. Raises ValueError for an unknown split."""
  if split not in ('train', 'heldout'):
    raise ValueError(f'split {split!r}: expected train or heldout')
  numbers = range(1, LARGEST + 1)
  every = list(itertools.combinations_with_replacement(numbers, 2))
  order = np.random.default_rng(0).permutation(len(every))
  chosen = order[:HELD_OUT] if split == 'heldout' else order[HELD_OUT:]
  unordered = [every[i] for i in chosen]
  both = [pair for a, b in unordered for pair in ((a, b), (b, a))]
  return tuple(dict.fromkeys(both))


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index`: of an endless stream of (train, seed), or of the held-out pairs in a fixed order."""
  known = pairs(split)
  at = index % len(known)
  if split != 'heldout':
    rng = np.random.default_rng((seed, index))
    at = int(rng.integers(len(known)))
  a, b = known[at]
  return Example(QUESTION.format(a=a, b=b), str(a + b), (a, b))
