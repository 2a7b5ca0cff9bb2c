"""Which groups are kept, exactly as many as asked for, and the same ones after a restart."""

import numpy as np
import pytest

from core.training.run import Run, loop
from rl.dynamic import Cursor, band, fill, mixed


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


def sample(numbers):
  """Query n is worth training on when it is divisible by 3."""
  n = np.array(numbers)
  return {'n': n, 'pair': np.stack([n, -n], 1)}


def keep(batch):
  return batch['n'] % 3 == 0


def test_exactly_as_many_groups_as_asked_for_in_order():
  cursor = Cursor()
  batch, drawn = fill(cursor, sample, keep, groups=5, at_once=8)
  assert batch['n'].tolist() == [0, 3, 6, 9, 12] and batch['pair'][:, 1].tolist() == [0, -3, -6, -9, -12]
  assert (drawn.rounds, drawn.prompts, drawn.kept, cursor.at) == (2, 16, 6, 16)
  batch, _ = fill(cursor, sample, keep, groups=2, at_once=8)
  assert batch['n'].tolist() == [18, 21]


def test_running_dry_is_an_error_that_says_so():
  with pytest.raises(RuntimeError, match='0 groups of 4 kept after 3 rounds of 8 queries'):
    fill(Cursor(), sample, lambda batch: np.zeros(8, bool), groups=4, at_once=8, rounds=3)


def test_a_restart_draws_the_same_groups(tmp_path):
  def go(folder, steps):
    cursor = Cursor()

    def advance(state, i):
      batch, drawn = fill(cursor, sample, keep, groups=3 + i % 2, at_once=4)
      return {'sum': state['sum'] + batch['n'].sum()}, {'n': batch['n'].sum()} | drawn.metrics()

    with Run(folder, {}, every=1) as run:
      return loop(run, {'sum': np.zeros((), np.int64)}, advance, steps, host={'queries': cursor})

  assert go(tmp_path / 'whole', 6) == (go(tmp_path / 'cut', 3), go(tmp_path / 'cut', 6))[1]
  assert (tmp_path / 'whole/metrics.jsonl').read_bytes() == (tmp_path / 'cut/metrics.jsonl').read_bytes()
