"""Tiny models whose every weight counts: published initial values hide faults (layer scales of 1e-6, zero AdaLN)."""

import math

import jax
import numpy as np
import pytest

from core.params import ones, path_name


def draw(spec, seed=0):
  """Weights of a spec, float32 numpy: no bias, norm or modulation at its initial 0 or 1, layer scales about 0.4."""
  rng = np.random.default_rng(seed)

  def one(path, s):
    noise = rng.normal(size=s.shape)
    if s.init is ones:
      value = 1 + 0.2 * noise
    elif path_name(path).endswith('gamma'):
      value = 0.4 + 0.1 * noise
    elif len(s.shape) - s.stack <= 1:
      value = 0.2 * noise
    else:
      value = noise / math.sqrt(s.fan_in)
    return np.asarray(value, np.float32)

  return jax.tree.map_with_path(one, spec)


@pytest.fixture(scope='session')
def drawn():
  return draw
