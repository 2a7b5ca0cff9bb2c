"""The MPO phase of an InternVL policy on eight devices is the phase on one."""

import json

import pytest

from tests.scale.processes import join, spawn

SCRIPT = """
import pathlib, sys
import jax
from core import mesh
from core.training.optim import Optim
from rl.preference import Examples, MpoPhase, mpo
from tests.rl.preference.pairs import LIMITS, digits_pairs, initial, tiny_policy

policy = tiny_policy()
pairs = {'digits': (Examples(digits_pairs(16), policy), 1.0)}
phase = MpoPhase(steps=2, batch=8, limits=LIMITS, reference_batch=8, optim=Optim(lr=1e-3, schedule='constant'))
for name, place in ('one', mesh.make(devices=jax.devices()[:1])), ('eight', mesh.make(data=4, model=2)):
  mpo(phase, policy, initial(policy), pairs, pathlib.Path(sys.argv[1]) / name, place=place)
"""


@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
  join(spawn(SCRIPT, str(tmp_path), devices=8), limit=600)
  one, eight = (
    [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]
    for name in ('one', 'eight')
  )
  for a, b in zip(one, eight):
    for key in ('loss', 'preference', 'quality', 'generation', 'shift', 'grad_norm'):
      assert a[key] == pytest.approx(b[key], rel=1e-5, abs=2e-6), key
  assert len(one) == len(eight) == 2
