"""Samples that float32 arithmetic can take."""

import numpy as np

LOUDEST = 2.0**31  # full scale of 32-bit integers, which some files keep in floats; powers of 1e20 would overflow


def check(samples: np.ndarray, name: str) -> None:
  """Raises ValueError, naming where they come from, for samples that are NaN, infinite or beyond 2^31."""
  within = np.abs(samples) <= LOUDEST  # NaN is not
  if not within.all():
    raise ValueError(f'{name}: samples are NaN, infinite or beyond 2^31; expected -1 to 1')
