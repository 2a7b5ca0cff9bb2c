"""What sampling several answers is worth: pass@k, majority vote, best-of-N.

n samples of a problem, c of them correct, k drawn without replacement.
"""

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
  return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def maj_at_k(votes: Sequence[Hashable | None], correct: Sequence[bool], k: int, *, seed: int = 0) -> float:
  """The expected correctness of the most frequent answer among k samples drawn without replacement.

  `votes` are answers in canonical form; None does not vote but is drawn all the same. Tied answers count as
  the mean of their correctness; a draw without votes counts 0. Exact when there are at most 1 000 subsets,
  else the mean over 1 000 random ones.
  """
  n = len(votes)
  check(n, k)
  answers = list(dict.fromkeys(v for v in votes if v is not None))
  if not answers:
    return 0.0
  ballot = np.zeros((n, len(answers)))
  right = np.zeros(len(answers))
  for i, vote in enumerate(votes):
    if vote is not None:
      ballot[i, answers.index(vote)] = 1
      right[answers.index(vote)] = correct[i]
  counts = ballot[_subsets(n, k, seed)].sum(1)
  leading = (counts == counts.max(1, keepdims=True)) & (counts > 0)
  share = leading @ right / np.maximum(leading.sum(1), 1)
  return float(share.mean())


def _subsets(n: int, k: int, seed: int) -> np.ndarray:
  """[subsets, k] indices."""
  if math.comb(n, k) <= EXACT_SUBSETS:
    import itertools

    return np.array(list(itertools.combinations(range(n), k)))
  order = np.random.default_rng(seed).random((RANDOM_SUBSETS, n)).argsort(1)
  return order[:, :k]


def best_of_k(rewards: Sequence[float], correct: Sequence[float], k: int) -> float:
  """The expected correctness of the sample of highest reward among k drawn without replacement.

  Exact, by counting subsets. Equal rewards share: each tied sample is picked equally often. Raises
  ValueError for a reward that is not finite.
  """
  n = len(rewards)
  check(n, k)
  if not all(math.isfinite(r) for r in rewards):
    raise ValueError('best_of_k: every reward must be a finite number')
  total = math.comb(n, k)
  value = 0.0
  below = 0
  for reward in sorted(set(rewards)):
    tied = [correct[i] for i in range(n) if rewards[i] == reward]
    upto = below + len(tied)
    value += (math.comb(upto, k) - math.comb(below, k)) / total * (sum(tied) / len(tied))
    below = upto
  return value
