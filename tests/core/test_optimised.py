"""The numerics of the stored results at full compiler optimisation, which the other tests forgo for speed."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from core import params

ROOT = pathlib.Path(__file__).parents[2]


def test_random_weights_are_the_same_bits_at_full_optimisation():
  spec = {
    'wide': params.Spec((64, 96), (None, None)),
    'norm': params.Spec((64,), (None,), params.ones),
    'narrow': params.Spec((96, 4), (None, None)),
  }
  key = jax.random.key(0)

  def make(key):
    return params.init(key, spec)

  full = jax.jit(make, compiler_options={'xla_backend_optimization_level': 3})(key)
  jax.tree.map(np.testing.assert_array_equal, params.draw(make, key), full)


@pytest.mark.slow
def test_parity_holds_at_full_optimisation():
  cases = 'test_equals_transformers and (6b-qwen3_moe or lm-gpt_oss)'
  out = subprocess.run(
    [sys.executable, '-m', 'pytest', '-k', cases, 'tests/parity/test_fixtures.py'],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=3'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert out.returncode == 0 and '2 passed' in out.stdout, out.stdout[-3000:]
