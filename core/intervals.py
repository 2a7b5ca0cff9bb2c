"""Confidence intervals."""

import math


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
  """95 % score interval (Wilson 1927) of a share of `right` out of `n`; z standard errors wide. n must not be 0."""
  p, scale = right / n, 1 / (1 + z * z / n)
  centre = scale * (p + z * z / (2 * n))
  half = scale * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  return centre - half, centre + half
