"""The autoencoder: sizes as published, locality, hostile shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.conv import conv2d, conv2d_spec
from core.layers import group_norm
from core.params import count
from rl.flow import vae
from rl.flow.files import vae as files
from tests.rl.flow import tiny


def test_published_sizes():
  for name in ('flux.1', 'sd3'):
    config = vae.CONFIGS[name]
    assert count(vae.spec(config)) == 83_819_683
    assert len(jax.tree.leaves(files.names(config))) == 244
    assert files.config_from(files.config_to(config)) == config


def test_convolution_by_its_definition():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 4, 6, 2))
  w = tiny.redrawn(conv2d_spec(3, 2, 3))
  padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  want = np.zeros((1, 2, 3, 3))
  for row in range(2):
    for column in range(3):
      window = padded[0, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
      want[0, row, column] = np.einsum('yxi,yxio->o', window, w.weight) + w.bias
  got = conv2d(jnp.asarray(x, jnp.float32), w, stride=2, padding=(0, 1))
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_group_norm_by_its_definition():
  rng = np.random.default_rng(0)
  x = 3 + rng.standard_normal((2, 3, 4, 6))
  grouped = x.reshape(2, 12, 2, 3)
  mean = grouped.mean((1, 3), keepdims=True)
  normed = (grouped - mean) / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
  scale, bias = rng.standard_normal((2, 6))
  want = normed.reshape(x.shape) * scale + bias
  got = group_norm(jnp.asarray(x, jnp.float32), scale, bias, groups=2, eps=1e-6)
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.fixture(scope='module')
def model():
  config = vae.CONFIGS['tiny']
  return config, tiny.redrawn(vae.spec(config))


def test_shapes_scale_and_noise(model):
  config, params = model
  images = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, 3)).astype(np.float32)
  mean, logvar = vae.moments(params, config, images)
  assert mean.shape == (2, 3, 2, 4)
  np.testing.assert_allclose(vae.encode(params, config, images), (mean - config.shift) * config.scale, rtol=1e-5)
  drawn = vae.encode(params, config, images, key=jax.random.key(0))
  normal = (drawn / config.scale + config.shift - mean) / np.exp(0.5 * logvar)
  np.testing.assert_allclose(normal, jax.random.normal(jax.random.key(0), mean.shape), rtol=1e-3, atol=1e-3)
  assert vae.decode(params, config, drawn).shape == images.shape


def test_wrong_shapes_and_sizes_are_refused(model):
  config, params = model
  with pytest.raises(ValueError, match='multiples of 2'):
    vae.encode(params, config, np.zeros((1, 5, 4, 3), np.float32))
  with pytest.raises(ValueError, match=r'rows, columns, 4'):
    vae.decode(params, config, np.zeros((1, 4, 4, 3), np.float32))
  with pytest.raises(ValueError, match='multiples of groups=4'):
    vae.Config(widths=(8, 10), depth=1, channels=4, scale=1.0, shift=0.0, groups=4)
  with pytest.raises(ValueError, match='use_quant_conv=True'):
    files.config_from(files.config_to(config) | {'use_quant_conv': True})
