"""Confidence intervals."""

import math


def wilson(right: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
  """95 % score interval (Wilson 1927) of a share of `right` out of `n`; z standard errors wide.

  Raises ValueError when n is not positive.
  """
  if n <= 0:
    raise ValueError(f'wilson: n is {n}, expected at least 1')
  p, scale = right / n, 1 / (1 + z * z / n)
  centre = scale * (p + z * z / (2 * n))
  half = scale * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return centre - half, centre + half
