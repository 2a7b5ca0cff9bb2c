"""Causal convolutions: against sums written out in float64, and streams against one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import conv, params

RNG = np.random.default_rng(0)


def drawn(spec):
  return jax.tree.map(lambda s: RNG.normal(size=s.shape).astype(np.float32), spec)


def strided(x, kernel, stride):
  """float64 [T / stride, O] of x [T, I]: a kernel [K, I, O] at every stride, after K - stride zeros."""
  x = np.concatenate([np.zeros((len(kernel) - stride, x.shape[1])), x])
  starts = range(0, len(x) - len(kernel) + 1, stride)
  return np.stack([np.einsum('ki,kio->o', x[t : t + len(kernel)], kernel) for t in starts])


def scattered(x, kernel, stride):
  """float64 [T stride, O] of x [T, I]: each frame adds a kernel [K, I, O] at its place; what sticks out is cut."""
  y = np.zeros((len(x) * stride + len(kernel), kernel.shape[2]))
  for t, frame in enumerate(x):
    y[t * stride : t * stride + len(kernel)] += np.einsum('i,kio->ko', frame, kernel)
  return y[: len(x) * stride]


def as_reference(kind, w):
  """The function of x [T, I] in float64 that a layer of this kind must compute."""
  weight, bias = w.weight.astype(np.float64), w.bias
  if kind in ('causal', 'narrow'):
    return lambda x: strided(x, weight, 1) + bias
  if kind == 'depthwise':
    return lambda x: strided(x, weight[:, :, None] * np.eye(x.shape[1]), 1) + bias
  if kind == 'down':
    return lambda x: strided(x, weight.reshape(-1, *weight.shape[2:]), weight.shape[1]) + bias
  kernel = np.concatenate(np.moveaxis(weight, 2, 1))  # [2, S, I, O]: S samples from now, then S from before
  return lambda x: scattered(x, kernel, weight.shape[2]) + bias


LAYERS = {
  'causal': conv.plain_spec(7, 3, 4),
  'narrow': conv.plain_spec(7, 3, 1),
  'depthwise': conv.depthwise_spec(7, 3),
  'down': conv.down_spec(5, 3, 4),
  'up': conv.up_spec(4, 3, 2),
}


def layer_of(kind):
  return getattr(conv, 'causal' if kind == 'narrow' else kind)


@pytest.mark.parametrize('kind', LAYERS)
def test_a_layer_is_its_sum_and_a_stream_is_one_call(kind):
  w = drawn(LAYERS[kind])
  layer = layer_of(kind)
  x = RNG.normal(size=(2, 40, 3)).astype(np.float32)
  whole, end = layer(x, w)
  want = np.stack([as_reference(kind, w)(row) for row in x])
  np.testing.assert_allclose(whole, want, atol=2e-5)

  state, pieces = None, []
  for piece in np.split(x, [5, 10, 30], 1):
    y, state = layer(piece, w, state)
    pieces.append(y)
  np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=2e-5)
  np.testing.assert_array_equal(state, end)


def test_a_stride_takes_whole_blocks():
  with pytest.raises(ValueError, match='stride 5: 7 inputs'):
    conv.down(np.zeros((1, 7, 3), np.float32), drawn(LAYERS['down']))


@pytest.mark.slow
def test_layers_start_at_the_scale_of_their_input():
  for kind, spec in LAYERS.items():
    w = params.init(jax.random.key(0), {kind: spec})[kind]
    y, _ = layer_of(kind)(RNG.normal(size=(2, 400, 3)).astype(np.float32), w)
    assert 0.3 < np.std(y) < 3, kind


def test_rows_are_selected_and_reset_bit_for_bit():
  old = {'flat': RNG.normal(size=(3, 6, 2)), 'stacked': RNG.normal(size=(4, 3, 6, 2))}
  new = jax.tree.map(lambda x: x + 1, old)
  rows = jnp.array([False, True, False])
  got = conv.select(rows, new, old)
  for name in old:
    np.testing.assert_array_equal(got[name][..., 1, :, :], jnp.asarray(new[name])[..., 1, :, :])
    np.testing.assert_array_equal(got[name][..., ::2, :, :], jnp.asarray(old[name])[..., ::2, :, :])
  cleared = conv.reset(rows, old)
  assert not cleared['stacked'][:, 1].any()
  np.testing.assert_array_equal(cleared['flat'][0], jnp.asarray(old['flat'])[0])
