"""Pairwise comparisons of a group and the win rates that follow from them.

An outcome is the first sample's share of a win: 1 it wins, 0.5 a tie, 0 it loses.   G samples of a group
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

Pair = tuple[int, int]
WIN = 1.0
TIE = 0.5
LOSS = 0.0
ALONE = 0.5  # the win rate of a sample that was compared with nothing


def pairs_of(samples: int, opponents: int | None = None, *, seed: int = 0) -> list[Pair]:
  """The pairs to compare, lower place first, in order: all G·(G − 1)/2, or a subset.

  opponents: of each sample; the subset is a ring of a random order, so that every sample is compared equally often.
  Raises ValueError for opponents that no ring of G samples has: they are 2 to G − 1, and even where G is odd.
  """
  if opponents is None or opponents == samples - 1:
    return list(itertools.combinations(range(samples), 2))
  if not 2 <= opponents < samples or opponents * samples % 2:
    even = ', an even number' if samples % 2 else ''
    expected = f'2 to {samples - 1}{even}, or none for all'
    raise ValueError(f'opponents={opponents} in groups of {samples}: expected {expected}')
  order = np.random.default_rng(seed).permutation(samples).tolist()
  pairs = set()
  for i, j in _ring(samples, opponents):
    low, high = sorted((order[i], order[j]))
    pairs.add((low, high))
  return sorted(pairs)


def _ring(samples: int, opponents: int) -> list[Pair]:
  """Places in a ring: each with the next `opponents // 2`, and with the one across if `opponents` is odd."""
  pairs = []
  for step in range(1, opponents // 2 + 1):
    pairs += [(place, (place + step) % samples) for place in range(samples)]
  if opponents % 2:
    half = samples // 2
    pairs += [(place, place + half) for place in range(half)]
  return pairs


def win_rates(
  samples: int, pairs: Sequence[Pair], outcomes: Sequence[float], *, decimals: int | None = None
) -> np.ndarray:
  """float64 [G]: (wins + ½·ties)/comparisons of each sample (Pref-GRPO, arXiv 2508.20751 eq. 5, ties as released).

  Over all pairs the rates sum to G/2. decimals: rounds them; the released trainer keeps 3, the paper rounds nothing.
  A sample in no pair has rate 0.5.
  """
  won = np.zeros(samples)
  compared = np.zeros(samples)
  for (i, j), outcome in zip(pairs, outcomes, strict=True):
    won[i] += outcome
    won[j] += 1 - outcome
    compared[[i, j]] += 1
  share = won / np.maximum(compared, 1)
  rates = np.where(compared > 0, share, ALONE)
  if decimals is None:
    return rates
  return rates.round(decimals)


def share_of_ties(samples: int, pairs: Sequence[Pair], outcomes: Sequence[float]) -> np.ndarray:
  """float64 [G]: the share of each sample's comparisons that ended in a tie."""
  ties = [outcome == TIE for outcome in outcomes]
  return shares(samples, pairs, ties)


def shares(samples: int, pairs: Sequence[Pair], marks: Iterable[bool]) -> np.ndarray:
  """float64 [G]: the share of each sample's comparisons that are marked; 0 where it has none."""
  marked = np.zeros(samples)
  compared = np.zeros(samples)
  for pair, mark in zip(pairs, marks, strict=True):
    both = list(pair)
    marked[both] += bool(mark)
    compared[both] += 1
  return marked / np.maximum(compared, 1)
