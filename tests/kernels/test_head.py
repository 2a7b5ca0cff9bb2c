"""The diffusion head against its arithmetic in float64, for all implementations that run anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import diffusion_head, pieces
from kernels.head import arguments, layers
from tests.kernels import heads

SIZE = heads.Size(width=32, mlp=96, latent=8, depth=3)
EVERYWHERE = ['reference', 'xla']


@functools.partial(jax.jit, static_argnames='implementation')
def call(weights, noise, condition, steps, guidance, *, implementation):
  return diffusion_head(weights, noise, condition, steps, guidance=guidance, implementation=implementation)


def unstacked(weights):
  return weights.replace(blocks=layers.blocks(weights))


def assert_close(got, want, tolerance):
  assert np.isfinite(want).all()
  np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize('implementation', EVERYWHERE)
@pytest.mark.parametrize('count', [1, 2, 5, 10])
def test_equals_float64(implementation, count):
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, count)
  noise, condition, guidance = heads.inputs(SIZE, 3)
  got = call(unstacked(weights), noise, condition, steps, guidance, implementation=implementation)
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 1e-5)


@pytest.mark.parametrize('implementation', EVERYWHERE)
def test_without_guidance_and_with_stacked_layers(implementation):
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, 5)
  noise, condition, guidance = heads.inputs(SIZE, 2)
  got = call(weights, noise, condition, steps, None, implementation=implementation)
  assert_close(got, heads.expected(weights, noise, condition, steps, None), 1e-5)
  one = guidance.replace(scale=jnp.float32(1))
  with_one = call(weights, noise, condition, steps, one, implementation=implementation)
  assert_close(with_one, got, 2e-5)


@pytest.mark.parametrize('implementation', EVERYWHERE)
def test_bfloat16(implementation):
  weights, steps = (f(SIZE, *more, dtype=jnp.bfloat16) for f, more in ((heads.weights, ()), (heads.steps, (5,))))
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=jnp.bfloat16)
  got = call(unstacked(weights), noise, condition, steps, guidance, implementation=implementation)
  assert got.dtype == jnp.bfloat16
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 4e-2)


@pytest.mark.parametrize('implementation', EVERYWHERE)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-5), (jnp.bfloat16, 4e-2)])
@pytest.mark.parametrize('frames', [1, 2])
def test_weights_in_pieces(implementation, dtype, tolerance, frames, monkeypatch):
  monkeypatch.setattr(pieces, 'PIECE', 1024)
  monkeypatch.setattr(pieces, 'NARROW_PIECE', 1024)
  weights, steps = heads.weights(SIZE, dtype=dtype), heads.steps(SIZE, 5, dtype=dtype)
  noise, condition, guidance = heads.inputs(SIZE, frames, dtype=dtype)
  held = arguments.streamed(unstacked(weights))
  got = call(held, noise, condition, steps, guidance, implementation=implementation)
  assert got.dtype == dtype
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), tolerance)


@pytest.mark.parametrize('implementation', EVERYWHERE)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-5), (jnp.bfloat16, 4e-2)])
def test_feed_forward_in_int8(implementation, dtype, tolerance, monkeypatch):
  """Its rounded values are the weights: the definition in float64 multiplies those."""
  monkeypatch.setattr(pieces, 'PIECE', 1024)
  monkeypatch.setattr(pieces, 'NARROW_PIECE', 1024)
  exact, steps = heads.weights(SIZE, dtype=dtype), heads.steps(SIZE, 5, dtype=dtype)
  weights = arguments.quantised(exact)
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=dtype)
  want = heads.expected(weights, noise, condition, steps, guidance)
  for held in (weights, arguments.streamed(unstacked(weights))):
    got = call(held, noise, condition, steps, guidance, implementation=implementation)
    assert_close(got, want, tolerance)
  rounding = np.abs(want - heads.expected(exact, noise, condition, steps, guidance)).max() / np.abs(want).max()
  assert 1e-4 < rounding < 0.05


@pytest.mark.parametrize('implementation', EVERYWHERE)
def test_a_row_of_nan_stays_alone(implementation):
  weights, steps = unstacked(heads.weights(SIZE)), heads.steps(SIZE, 5)
  noise, condition, guidance = heads.inputs(SIZE, 3)
  want = call(weights, noise, condition, steps, guidance, implementation=implementation)
  got = call(weights, noise, condition.at[1].set(jnp.nan), steps, guidance, implementation=implementation)
  assert np.isnan(got[1]).all()
  np.testing.assert_array_equal(got[::2], want[::2])


def test_modulation_is_computed_outside_the_loop():
  """The loop over the solver's steps multiplies by no AdaLN weight: those products are hoisted."""
  weights, steps = unstacked(heads.weights(SIZE)), heads.steps(SIZE, 5)
  noise, condition, guidance = heads.inputs(SIZE, 3)
  modulation = weights.blocks[0].modulation.shape

  def reads_in_loop(implementation):
    program = jax.make_jaxpr(functools.partial(call, implementation=implementation))
    jaxpr = program(weights, noise, condition, steps, guidance)
    loops = [e for e in jaxpr.jaxpr.eqns[0].params['jaxpr'].jaxpr.eqns if e.primitive.name == 'scan']
    assert len(loops) == 1
    return sum(v.aval.shape == modulation for v in loops[0].invars)

  assert reads_in_loop('xla') == 0
  assert reads_in_loop('reference') == SIZE.depth


def test_impossible_calls_are_refused():
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, 2)
  noise, condition, guidance = heads.inputs(SIZE, 2)
  with pytest.raises(ValueError, match=r"'condition': \(2, 31\).*expected.*\(2, 32\)"):
    diffusion_head(weights, noise, condition[:, :-1], steps)
  with pytest.raises(ValueError, match='negative'):
    diffusion_head(weights, noise[:1], condition[:1], steps, guidance=guidance)
  with pytest.raises(ValueError, match="'cuda'"):
    diffusion_head(weights, noise, condition, steps, implementation='cuda')
