"""The gain from sampling several answers: pass@k, majority vote, best-of-N.

n samples of a problem, c of them correct, k drawn without replacement.
"""

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from core.report.intervals import check, pass_at_k

__all__ = ['best_of_k', 'curve_points', 'maj_at_k', 'pass_at_k']

EXACT_SUBSETS = 1_000
RANDOM_SUBSETS = 1_000


def curve_points(n: int) -> list[int]:
  """1, 2, 4, … and n: where pass@k and maj@k are reported."""
  check(n, 1)
  powers = {2**i for i in range(n.bit_length())}
  return sorted(powers | {n})


def maj_at_k(votes: Sequence[Hashable | None], correct: Sequence[bool], k: int, *, seed: int = 0) -> float:
  """The expected correctness of the most frequent answer among k samples drawn without replacement.

  `votes` are answers in canonical form; a sample with None can be drawn but does not vote. Tied answers count as the
  mean of their correctness; a draw without votes counts 0. Exact when there are at most 1 000 subsets, else the mean
  over 1 000 random ones.
  """
  n = len(votes)
  check(n, k)
  numbers: dict[Hashable, int] = {}
  for vote in votes:
    if vote is not None:
      numbers.setdefault(vote, len(numbers))
  if not numbers:
    return 0.0
  ballot = np.zeros((n, len(numbers)))
  right = np.zeros(len(numbers))
  for i, vote in enumerate(votes):
    if vote is None:
      continue
    answer = numbers[vote]
    ballot[i, answer] = 1
    right[answer] = correct[i]
  counts = ballot[_subsets(n, k, seed)].sum(1)
  most = counts.max(1, keepdims=True)
  leading = (counts == most) & (counts > 0)
  ties = np.maximum(leading.sum(1), 1)
  share = leading @ right / ties
  return float(share.mean())


def _subsets(n: int, k: int, seed: int) -> np.ndarray:
  """[subsets, k] indices."""
  if math.comb(n, k) <= EXACT_SUBSETS:
    subsets = itertools.combinations(range(n), k)
    return np.array(list(subsets))
  draws = np.random.default_rng(seed).random((RANDOM_SUBSETS, n))
  return draws.argsort(1)[:, :k]


def best_of_k(rewards: Sequence[float], correct: Sequence[float], k: int) -> float:
  """The expected correctness of the sample of highest reward among k drawn without replacement.

  Exact, by counting subsets. Equal rewards share: each tied sample is picked equally often. Raises
  ValueError for a reward that is not finite.
  """
  n = len(rewards)
  check(n, k)
  if not all(map(math.isfinite, rewards)):
    raise ValueError('best_of_k: every reward must be a finite number')
  total = math.comb(n, k)
  value = 0.0
  below = 0
  for reward in sorted(set(rewards)):
    tied = [right for right, other in zip(correct, rewards) if other == reward]
    upto = below + len(tied)
    # Subsets whose best is this reward: those up to it, without those below it.
    probability = (math.comb(upto, k) - math.comb(below, k)) / total
    value += probability * (sum(tied) / len(tied))
    below = upto
  return value
