"""Intervals: bootstrap over problems, paired and two-level, and Wilson's as a cross-check.

N problems   S samples a problem   C columns (ratios)   R resamples
"""

import dataclasses
import math

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK = 8_000_000  # resampled numbers in memory at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with its 95 % interval and the number of problems. None if nothing was counted."""

  value: float | None
  low: float | None
  high: float | None
  problems: int


def ratio(num, den):
  """num / den, NaN where den is 0."""
  num = np.asarray(num, float)
  den = np.asarray(den, float)
  missing = np.full(np.broadcast(num, den).shape, np.nan)
  return np.divide(num, den, out=missing, where=den != 0)


def value_of(num, den) -> float:
  """The mean over columns of each column's ratio of sums. num, den: [N, C]."""
  by_column = ratio(np.sum(num, 0), np.sum(den, 0))
  return float(np.mean(by_column))


def resampled(num, den, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
  """[R] values of the mean of ratios over problems drawn with replacement. num, den: [N, C].

  The draws depend on N, R and seed alone, so two systems on the same problems get the same draws (a paired
  bootstrap).
  """
  num = np.asarray(num, float)
  den = np.asarray(den, float)
  n = len(num)
  rng = np.random.default_rng(seed)
  even = np.full(n, 1 / n)
  values = []
  for count in _blocks(resamples, n):
    weights = rng.multinomial(n, even, size=count).astype(float)
    ratios = ratio(weights @ num, weights @ den)
    values.append(ratios.mean(-1))
  return np.concatenate(values)


def two_level(num, den, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
  """[R] ratios of sums with problems drawn first, then samples within each. num, den: [N, S]."""
  num = np.asarray(num, float)
  den = np.asarray(den, float)
  n, s = num.shape
  rng = np.random.default_rng(seed)
  values = []
  for count in _blocks(resamples, n * s):
    problem = rng.integers(n, size=(count, n, 1))
    sample = rng.integers(s, size=(count, n, s))
    above = num[problem, sample].sum((1, 2))
    below = den[problem, sample].sum((1, 2))
    values.append(ratio(above, below))
  return np.concatenate(values)


def _blocks(resamples: int, size: int) -> list[int]:
  """Numbers of resamples, of `size` numbers each, that fit in memory at a time."""
  block = max(1, _BLOCK // size)
  return [min(block, resamples - start) for start in range(0, resamples, block)]


def percentile(draws: np.ndarray) -> tuple[float | None, float | None]:
  """The interval that leaves (1 - LEVEL) / 2 of the draws on each side.

  Draws that counted nothing are left out.
  """
  draws = draws[np.isfinite(draws)]
  if not draws.size:
    return None, None
  tail = (1 - LEVEL) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return float(low), float(high)


def estimate(num, den, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
  """The mean over columns of ratios of sums with its bootstrap interval. num, den: [N, C]."""
  num = np.asarray(num, float)
  den = np.asarray(den, float)
  problems = int(np.count_nonzero(np.any(den > 0, axis=1)))
  value = value_of(num, den) if len(num) else math.nan
  if not math.isfinite(value):
    return Estimate(value=None, low=None, high=None, problems=problems)
  low, high = percentile(resampled(num, den, resamples=resamples, seed=seed))
  return Estimate(value=value, low=low, high=high, problems=problems)


@dataclasses.dataclass(frozen=True)
class Difference:
  """a - b on the same problems, its interval, and the two-sided bootstrap p-value of no difference."""

  value: float
  low: float
  high: float
  p: float
  problems: int


def paired(a, b, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
  """Paired bootstrap. a, b: pairs (num, den) of [N, C] over the same problems in the same order."""
  of_a = resampled(*a, resamples=resamples, seed=seed)
  of_b = resampled(*b, resamples=resamples, seed=seed)
  draws = of_a - of_b
  draws = draws[np.isfinite(draws)]
  value = value_of(*a) - value_of(*b)
  if not draws.size or not math.isfinite(value):
    raise ValueError('nothing was counted for this metric in one of the two results')
  low, high = percentile(draws)
  # One is added to both counts, so that the p-value of a finite number of draws is never 0.
  not_above = np.count_nonzero(draws <= 0)
  not_below = np.count_nonzero(draws >= 0)
  side = min(not_above, not_below)
  p = 2 * (side + 1) / (draws.size + 1)
  return Difference(value=value, low=low, high=high, p=min(1.0, p), problems=len(a[0]))
