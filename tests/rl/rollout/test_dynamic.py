"""Which groups are worth an update."""

import numpy as np
import pytest

from rl.rollout.dynamic import band, mixed


def test_groups_of_one_opinion_are_dropped():
  accuracy = np.array([[1.0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 0]])
  assert mixed(accuracy).tolist() == [False, False, True, True]
  valid = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]], bool)
  assert mixed(accuracy, valid).tolist() == [False, False, False, False]


def test_bands_are_inclusive_and_exact():
  """SvS (arXiv 2508.14029) and InternVL3.5 (arXiv 2508.18265): bands of measured accuracy."""
  assert np.flatnonzero(band(np.arange(9), 8, 0.125, 0.5)).tolist() == [1, 2, 3, 4]
  assert np.flatnonzero(band(np.arange(9), 8, 0.125, 0.625)).tolist() == [1, 2, 3, 4, 5]
  # 0.2 and 0.8 are no binary fractions: 2/10 and 8/10 belong all the same.
  assert np.flatnonzero(band(np.arange(11), 10, 0.2, 0.8)).tolist() == list(range(2, 9))
  assert np.flatnonzero(band(np.arange(6), 5, 0.2, 0.8)).tolist() == [1, 2, 3, 4]
  with pytest.raises(ValueError, match='low='):
    band(np.arange(3), 2, 0.9, 0.1)
