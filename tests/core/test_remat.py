"""Which stacks of layers a program holds one by one, and that it changes no value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import remat
from core.params import walk
from core.tap import walk_keeping

DEPTH = 3
WIDTH = 8


def mean(weights, x, policy='none'):
  """The mean of a stack of products [depth, width, width] with x [rows, width]."""

  def layer(x, i, w):
    return jnp.tanh(x @ w), ({}, ())

  depth = len(weights)
  x, _, _ = walk_keeping(layer, (), depth, x, weights, remat_policy=policy)
  return x.mean()


def drawn(depth, dtype='float32'):
  weights, x = jax.random.normal(jax.random.key(0), (2, depth, WIDTH, WIDTH)).astype(dtype)
  return weights, x[0]


def loops(policy, depth, dtype='float32'):
  """How many loops the program of the gradient has, before the compiler sees it."""
  gradient = jax.jit(jax.grad(mean), static_argnums=2)
  return gradient.lower(*drawn(depth, dtype), policy).as_text().count('stablehlo.while')


def test_a_cpu_holds_the_layers_of_a_short_stack_one_by_one():
  assert loops('none', DEPTH) == 0
  assert loops('none', remat.SHORT + 1) > 0
  assert loops('none', DEPTH, 'bfloat16') > 0  # where fusions over layers would round differently


@pytest.mark.parametrize('policy', sorted(remat.POLICIES))
def test_rematerialisation_keeps_the_loop(policy):
  assert loops(policy, DEPTH) > 0


@pytest.mark.parametrize(('platform', 'devices', 'size'), [('cpu', 1, DEPTH), ('cpu', 2, 1), ('tpu', 1, 1)])
def test_only_a_program_for_one_cpu_device_unrolls(platform, devices, size):
  device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((devices,), ('data',), abstract_device=device)):
    assert remat.unroll(jnp.ones(1), 'none', DEPTH) == size


def test_a_forward_pass_by_itself_keeps_the_loop():
  weights, x = drawn(DEPTH)
  run = jax.jit(functools.partial(mean, policy=None))
  assert 'stablehlo.while' in run.lower(weights, x).as_text()


def test_unrolled_layers_give_the_loops_values_and_gradients():
  weights, x = drawn(DEPTH)
  got = jax.jit(jax.value_and_grad(mean))(weights, x)
  layer = lambda x, i, w: (jnp.tanh(x @ w), ())
  want = jax.value_and_grad(lambda weights, x: walk(layer, x, weights)[0].mean())(weights, x)
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)  # float32, sums in another order
