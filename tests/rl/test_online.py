"""The online phase by itself, on rollouts that are made up."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from core import mesh
from core.params import path_name
from rl.configs import CONFIGS
from rl.online import reinforce
from rl.policy import Answers
from rl.rewards import Rewards
from rl.rollouts import Collector
from rl.setup import setup

ONE = mesh.make(devices=jax.devices()[:1])
SMOKE = CONFIGS['smoke']


def _rollout(s):
  """A rollout of constant answers, each rewarded by its number."""

  def sampler(inputs, *, samples, max_new, **_):
    shape = (len(inputs), samples, max_new)
    return Answers(
      np.arange(np.prod(shape), dtype=np.int32).reshape(shape), np.zeros(shape, np.float32), np.ones(shape, bool)
    )

  sampler.home = mesh.Share(ONE, ONE)
  guard = lambda calls: Rewards(np.arange(len(calls), dtype=np.float32), np.ones(len(calls), bool), {})
  return Collector(s, guard)(sampler, 0)[0]


def test_reward_trains_the_weights_that_it_is_to_train(tmp_path):
  config = dataclasses.replace(SMOKE, steps=2, updates=2, trainable=r'(?:projector|language)\..*')
  s, weights = setup(config, ONE)
  before, seen = jax.tree.map(np.array, weights), []
  names = [path_name(path) for path, _ in jax.tree.leaves_with_path(before)]
  changed = lambda now: {
    name for name, a, b in zip(names, jax.tree.leaves(before), jax.tree.leaves(now)) if (a != np.asarray(b)).any()
  }

  def collect(weights, *_):
    seen.append(changed(weights))  # what the next rollout is sampled from
    return _rollout(s), {'reward': np.float32(0)}, ()

  look = lambda weights: types.SimpleNamespace(accuracy=0.0)
  source = types.SimpleNamespace(lag=0, start=lambda weights: (), collect=collect, look=look, close=lambda: None)
  after = changed(reinforce(s, weights, source, tmp_path, ONE))
  assert {name for name in names if not name.startswith('vision')} - after <= {'projector.norm_bias'}
  assert not {name for name in after if name.startswith('vision')}
  assert not seen[0] and seen[1] and seen[1] <= after


def test_a_pattern_that_matches_no_weight_is_refused_at_once():
  with pytest.raises(ValueError, match="trainable='router' matches none"):
    setup(dataclasses.replace(SMOKE, trainable='router'), ONE)
