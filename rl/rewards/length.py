"""What the length of an answer costs."""

import numpy as np


def overlong(lengths: np.ndarray, limit: int, buffer: int, factor: float = 1.0) -> np.ndarray:
  """Soft overlong punishment (DAPO, arXiv 2503.14476 eq. 13), to be added to rewards: 0 down to −factor.

  lengths: answers' lengths in tokens, any shape. 0 up to limit − buffer, then linear, −factor from `limit` on.
  Raises ValueError unless 0 < buffer <= limit.
  """
  if not 0 < buffer <= limit:
    raise ValueError(f'buffer={buffer}: expected 1 to limit={limit}')
  return -factor * np.clip((np.asarray(lengths) - (limit - buffer)) / buffer, 0.0, 1.0)
