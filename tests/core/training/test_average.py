"""The average of weights: its recurrence, its place in a step, what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.params import Spec
from core.training import steps
from core.training.average import averaged, replaced
from core.training.optim import Optim, optimizer

SPEC = {'head': Spec((2, 3), (None, None)), 'body': Spec((2, 3), (None, None)), 'frozen': Spec((2,), (None,))}


def loss(params, batch, key):
  return steps.Loss(jnp.sum(params['head'] @ batch[0]) + jnp.sum(params['body'] ** 2), jnp.float32(1))


def test_the_average_follows_its_recurrence_and_nothing_else_changes():
  params = {'head': jnp.ones((2, 3)), 'body': jnp.ones((2, 3)), 'frozen': None}
  plain = optimizer(Optim(lr=0.1, schedule='constant'), 10, SPEC)
  tx = averaged(plain, 0.9, 'head')
  step, batch = steps.make_step(loss, tx), jnp.ones((1, 3))
  state, mean = steps.init_state(jax.tree.map(jnp.copy, params), tx), np.ones((2, 3))
  for i in range(4):
    state, metrics = step(state, None, batch, jax.random.key(i))
    mean = 0.9 * mean + 0.1 * np.asarray(state.params['head'], np.float64)
  got = replaced(state.params, state.opt_state)
  np.testing.assert_allclose(got['head'], mean, rtol=1e-6)
  np.testing.assert_array_equal(got['body'], state.params['body'])
  assert got['frozen'] is None and np.abs(mean - state.params['head']).min() > 0.01 and metrics['lr'] == np.float32(0.1)
  bad, _ = step(state, None, jnp.full((1, 3), jnp.nan), jax.random.key(9))
  np.testing.assert_allclose(replaced(bad.params, bad.opt_state)['head'], mean, rtol=1e-6)


def test_nothing_to_average():
  with pytest.raises(ValueError, match="average of 'tail'"):
    averaged(optimizer(Optim(), 10, SPEC), 0.9, 'tail').init({'head': jnp.ones((2, 3))})
