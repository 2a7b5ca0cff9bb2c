"""Statistics of counts of right answers: confidence intervals and pass@k."""

import math


def wilson(right: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
  """95 % score interval (Wilson 1927) of a share of `right` out of `n`; z standard errors wide.

  Raises ValueError when n is not positive.
  """
  if n <= 0:
    raise ValueError(f'wilson: n is {n}, expected at least 1')
  p = right / n
  scale = 1 / (1 + z * z / n)
  centre = scale * (p + z * z / (2 * n))
  variance = p * (1 - p) / n + z * z / (4 * n * n)
  half = scale * z * math.sqrt(variance)
  return centre - half, centre + half


def check(n: int, k: int) -> None:
  """Raises ValueError unless k of n samples can be drawn."""
  if not 1 <= k <= n:
    raise ValueError(f'k is {k}, expected 1 <= k <= n = {n}')


def pass_at_k(n: int, c: int, k: int) -> float:
  """The chance that k of n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

  The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, §2.1). A product of at most c factors, so no
  factorial is formed. Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
  """
  check(n, k)
  if not 0 <= c <= n:
    raise ValueError(f'c is {c}, expected 0 <= c <= n = {n}')
  if n - c < k:
    return 1.0
  # C(n-c, k) / C(n, k) = C(n-k, c) / C(n, c) = Π (1 - k / i), i = n-c+1 … n, summed as logarithms.
  factors = range(n - c + 1, n + 1)
  log_of_none = math.fsum(math.log1p(-k / i) for i in factors)
  return -math.expm1(log_of_none)
