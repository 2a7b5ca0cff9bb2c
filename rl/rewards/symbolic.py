"""Verifying with Math-Verify, which may take for ever or fail: for a `Guard`."""

from rl.rewards.answers import symbolically_equal, warm_up
from rl.rewards.verify import boxed

__all__ = ['boxed_symbolic', 'warm_up']  # a guard's process calls `warm_up` before any clock runs


def boxed_symbolic(answer: str, reference: str) -> float:
  """As `boxed`; what is neither a number nor the same text is compared by Math-Verify."""
  return boxed(answer, reference, symbolically_equal)
