"""A planted direction is found, shuffled labels are at chance, and a group is never on both sides."""

import numpy as np
import pytest

from interp import probe, steer
from interp.sites import edits
from tests.interp.tiny import TOKENS, apply

R = np.random.default_rng(0)
LABELS = R.integers(0, 2, 120)
NOISE = R.normal(size=(3, 120, 8)).astype(np.float32)


def planted():
  """Labels along one direction of layer 1 only."""
  x = NOISE.copy()
  x[1] += 3 * LABELS[:, None] * np.eye(8)[2]
  return x


@pytest.mark.slow
def test_a_planted_direction_is_found_in_its_layer():
  found = probe.fit(planted(), LABELS)
  assert found.accuracy.argmax() == 1 and found.accuracy[1] > 0.9
  assert found.interval[1, 0] > found.chance > found.interval[0, 0]
  assert found.selectivity[1] > 0.25
  assert (np.abs(found.control - 0.5) < 0.15).all()
  values = probe.fit(planted(), LABELS * 2.0, kind='linear')
  assert values.accuracy[1] > 0.5 and values.accuracy[[0, 2]].max() < 0.1
  assert values.control.max() < 0.1


@pytest.mark.slow
def test_what_only_tells_groups_apart_is_not_learnt():
  groups = np.repeat(np.arange(12), 10)
  labels = np.repeat(np.arange(12) % 2, 10)
  x = 5 * np.eye(12)[groups][None] + 0.1 * R.normal(size=(1, 120, 12))
  assert probe.fit(x, labels).accuracy[0] > 0.95
  grouped = probe.fit(x, labels, groups=groups)
  assert grouped.interval[0, 0] < grouped.chance and grouped.items == 12


def test_wilson_is_the_published_interval():
  # 81 of 263: Newcombe 1998, table I, method 3.
  np.testing.assert_allclose(probe.wilson(np.array(81 / 263), 263), [0.2553, 0.3662], atol=5e-5)


def test_pooling_is_over_the_mask():
  states = R.normal(size=(2, 1, 4, 3))
  mask = np.array([[True, False, True, False]])
  np.testing.assert_allclose(probe.pooled(states, mask)[:, 0], states[:, 0, [0, 2]].mean(1))
  with pytest.raises(ValueError, match='row 0'):
    probe.pooled(states, ~mask & mask)


@pytest.mark.parametrize(
  ('change', 'word'),
  [
    ({'kind': 'svm'}, 'svm'),
    ({'folds': 1}, 'folds=1'),
    ({'groups': [0, 1]}, '2 groups'),
    ({'labels': [1] * 120}, 'one'),
  ],
)
def test_impossible_probes_are_refused(change, word):
  with pytest.raises(ValueError, match=word):
    probe.fit(**{'features': NOISE, 'labels': LABELS} | change)


@pytest.mark.slow
def test_steering_moves_the_stream_along_its_direction():
  plain = apply(TOKENS, keep=('resid_out',)).kept['resid_out']
  directions = np.asarray(R.normal(size=(3, 16)), np.float32)
  edit = steer.steered(directions, (1,), strength=2.0)
  moved = apply(TOKENS, keep=('resid_out',), edit=edit).kept['resid_out']
  np.testing.assert_allclose(moved[1] - plain[1], np.broadcast_to(2 * directions[1], plain[1].shape), atol=1e-5)
  edit = edits({('resid_out', 1): steer.remove(directions[1])})
  moved = apply(TOKENS, keep=('resid_out',), edit=edit).kept['resid_out']
  np.testing.assert_allclose(moved[1] @ directions[1], 0, atol=1e-4)
  np.testing.assert_allclose(steer.difference(plain[:, :1, 0], plain[:, 1:, 0]), plain[:, 0, 0] - plain[:, 1, 0])
