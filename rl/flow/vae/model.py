"""Images to latents and back.

B batch   Y, X rows and columns of pixels   y, x of latents   C channels
"""

import jax
import jax.numpy as jnp

from core.attention import Keys, attention
from core.conv import conv2d
from core.encoder import Norm
from core.layers import group_norm
from core.params import einsum
from rl.flow.vae.config import Config
from rl.flow.vae.params import Attention, Half, Middle, Params, Residual

LOGVAR = (-30.0, 20.0)  # bounds of the encoder's log-variances


def _norm(x: jax.Array, p: Norm, c: Config) -> jax.Array:
  return group_norm(x, p.scale, p.bias, groups=c.groups, eps=c.eps)


def _active(x: jax.Array, p: Norm, c: Config) -> jax.Array:
  normed = _norm(x, p, c)
  return jax.nn.silu(normed)


def _residual(x: jax.Array, p: Residual, c: Config) -> jax.Array:
  h = _active(x, p.norm1, c)
  h = conv2d(h, p.conv1)
  h = _active(h, p.norm2, c)
  h = conv2d(h, p.conv2)
  if p.shortcut is not None:
    x = conv2d(x, p.shortcut)
  return x + h


def _attend(x: jax.Array, p: Attention, c: Config) -> jax.Array:
  """x [B, Y, X, C] plus attention of one head over its pixels."""
  batch, _, _, width = x.shape
  h = _norm(x, p.norm, c)
  h = h.reshape(batch, -1, width)
  q = _product(h, p.q, p.q_bias)
  k = _product(h, p.k, p.k_bias)
  v = _product(h, p.v, p.v_bias)
  keys = Keys(k[:, None], v[:, None])
  z = attention(q[:, :, None], [keys], causal=False)
  out = _product(z[:, :, 0], p.o, p.o_bias)
  return x + out.reshape(x.shape)


def _product(x: jax.Array, weight, bias) -> jax.Array:
  return einsum('btc,cd->btd', x, weight) + bias


def _middle(x: jax.Array, p: Middle, c: Config) -> jax.Array:
  x = _residual(x, p.before, c)
  x = _attend(x, p.attn, c)
  return _residual(x, p.after, c)


def _head(x: jax.Array, p: Half, c: Config) -> jax.Array:
  h = _active(x, p.norm, c)
  return conv2d(h, p.out)


def _halve(x: jax.Array, w) -> jax.Array:
  """[B, Y, X, C] to [B, Y/2, X/2, C]; the published layer pads after the pixels only."""
  return conv2d(x, w, stride=2, padding=(0, 1))


def _double(x: jax.Array, w) -> jax.Array:
  """[B, Y, X, C] to [B, 2 Y, 2 X, C]: nearest neighbours, then a convolution."""
  taller = jnp.repeat(x, 2, 1)
  larger = jnp.repeat(taller, 2, 2)
  return conv2d(larger, w)


def _levels(x: jax.Array, p: Half, c: Config, resample) -> jax.Array:
  for level in p.levels.values():
    for block in level.blocks.values():
      x = _residual(x, block, c)
    if level.resample is not None:
      x = resample(x, level.resample)
  return x


def moments(params: Params, config: Config, images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and log-variance [B, y, x, C] of the encoder's Gaussian, before scale and shift.

  images: [B, Y, X, 3] from -1 to 1. Raises ValueError unless Y and X are multiples of `config.factor`.
  """
  c = config
  _check_images(images.shape, c)
  p = params.encoder
  x = images.astype(p.entry.bias.dtype)
  x = conv2d(x, p.entry)
  x = _levels(x, p, c, _halve)
  x = _middle(x, p.middle, c)
  x = _head(x, p, c)
  mean, logvar = jnp.split(x, 2, -1)
  least, most = LOGVAR
  return mean, jnp.clip(logvar, least, most)


def _check_images(shape: tuple[int, ...], c: Config) -> None:
  fits = len(shape) == 4 and shape[3] == c.images
  if not fits or shape[1] % c.factor or shape[2] % c.factor:
    raise ValueError(f'images {shape}: expected [batch, rows, columns, {c.images}], sides multiples of {c.factor}')


def encode(params: Params, config: Config, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
  """Latents [B, y, x, C] as the transformers see them, of images [B, Y, X, 3] from -1 to 1.

  key: a jax.random key draws from the encoder's Gaussian; without one its mean is taken. Raises as `moments`.
  """
  mean, logvar = moments(params, config, images)
  encoded = mean
  if key is not None:
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    deviation = jnp.exp(0.5 * logvar)
    encoded = mean + deviation * noise
  return (encoded - config.shift) * config.scale


def decode(params: Params, config: Config, latents: jax.Array) -> jax.Array:
  """Images [B, Y, X, 3], about -1 to 1, of latents [B, y, x, C]. Raises ValueError for another number of channels."""
  c = config
  if latents.ndim != 4 or latents.shape[3] != c.channels:
    raise ValueError(f'latents {latents.shape}: expected [batch, rows, columns, {c.channels}]')
  p = params.decoder
  encoded = latents / c.scale + c.shift
  x = encoded.astype(p.entry.bias.dtype)
  x = conv2d(x, p.entry)
  x = _middle(x, p.middle, c)
  x = _levels(x, p, c, _double)
  return _head(x, p, c)
