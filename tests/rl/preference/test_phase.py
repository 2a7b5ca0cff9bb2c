"""The MPO phase from its first step to its last."""

import json
import pathlib

import jax
import numpy as np
import pytest

from core.training.optim import Optim
from rl.preference import Examples, MpoPhase, mpo, phase
from tests.rl.preference.pairs import LIMITS, digits_pairs, initial, tiny_policy

PHASE = MpoPhase(
  steps=12,
  batch=8,
  accumulate=2,
  limits=LIMITS,
  reference_batch=8,
  save_every=4,
  optim=Optim(lr=1e-3, schedule='constant'),
)


def lines(folder: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_the_mpo_phase_starts_at_its_known_value_learns_and_resumes(tmp_path):
  policy = tiny_policy()
  pairs = {'digits': (Examples(digits_pairs(16), policy), 1.0)}
  whole = mpo(PHASE, policy, initial(policy), pairs, tmp_path / 'whole')
  metrics = lines(tmp_path / 'whole')
  # The first micro-batch has policy = reference; so has the second, whose weights are the same.
  assert metrics[0]['preference'] == pytest.approx(np.log(2), abs=1e-4)
  assert metrics[0]['quality'] == pytest.approx(2 * np.log(2), abs=1e-4)
  assert metrics[0]['loss'] == pytest.approx(1.2 * np.log(2) + metrics[0]['generation'], abs=1e-3)
  assert metrics[-1]['preference'] < np.log(2) - 0.01 and metrics[-1]['generation'] < metrics[0]['generation']
  assert metrics[-1]['shift'] != 0
  with pytest.raises(KeyboardInterrupt):
    interrupted(PHASE, policy, initial(policy), pairs, tmp_path / 'cut')
  again = mpo(PHASE, policy, initial(policy), pairs, tmp_path / 'cut')
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
    np.testing.assert_array_equal(a, b)
  assert (tmp_path / 'whole/metrics.jsonl').read_bytes() == (tmp_path / 'cut/metrics.jsonl').read_bytes()


def interrupted(settings, policy, weights, pairs, folder):
  """The phase, killed in the tenth step."""
  step = phase.make_step

  def breaking(*args, **options):
    inner, calls = step(*args, **options), []

    def go(*a):
      calls.append(1)
      if len(calls) == 10:
        raise KeyboardInterrupt
      return inner(*a)

    return go

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(phase, 'make_step', breaking)
    mpo(settings, policy, weights, pairs, folder)
