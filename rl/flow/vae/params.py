"""Weights of the autoencoder, and of its parts.

C, D channels   K kernel
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.conv import Conv, conv2d_spec
from core.encoder import Norm, norm_spec
from core.params import Spec, zeros
from core.params import init as draw
from rl.flow.vae.config import Config


@struct.dataclass(kw_only=True)
class Residual:
  """Two convolutions, each behind a norm; shortcut: a product where the number of channels changes, else None."""

  norm1: Norm
  conv1: Conv
  norm2: Norm
  conv2: Conv
  shortcut: Conv | None = None


@struct.dataclass(kw_only=True)
class Attention:
  """Attention of one head over all pixels."""

  norm: Norm
  q: Any  # [C, C]
  k: Any
  v: Any
  o: Any
  q_bias: Any  # [C]
  k_bias: Any
  v_bias: Any
  o_bias: Any


@struct.dataclass(kw_only=True)
class Middle:
  """The coarsest level's attention between two residual blocks."""

  before: Residual
  attn: Attention
  after: Residual


@struct.dataclass(kw_only=True)
class Level:
  """Residual blocks by number, and the convolution that changes the image's size after them."""

  blocks: dict[int, Residual]
  resample: Conv | None = None


@struct.dataclass(kw_only=True)
class Half:
  """Encoder or decoder; levels in the order of the computation."""

  entry: Conv
  levels: dict[int, Level]
  middle: Middle
  norm: Norm
  out: Conv


@struct.dataclass(kw_only=True)
class Params:
  """Weights of both halves."""

  encoder: Half
  decoder: Half


def _residual(inputs: int, outputs: int) -> Residual:
  return Residual(
    norm1=norm_spec(inputs, 'layer'),
    conv1=conv2d_spec(3, inputs, outputs),
    norm2=norm_spec(outputs, 'layer'),
    conv2=conv2d_spec(3, outputs, outputs),
    shortcut=conv2d_spec(1, inputs, outputs) if inputs != outputs else None,
  )


def _middle(width: int) -> Middle:
  matrix = Spec((width, width), (None, None))
  bias = Spec((width,), (None,), zeros)
  attn = Attention(
    norm=norm_spec(width, 'layer'),
    q=matrix,
    k=matrix,
    v=matrix,
    o=matrix,
    q_bias=bias,
    k_bias=bias,
    v_bias=bias,
    o_bias=bias,
  )
  return Middle(before=_residual(width, width), attn=attn, after=_residual(width, width))


def _levels(widths: tuple[int, ...], entry: int, depth: int) -> dict[int, Level]:
  """Levels of these widths behind `entry` channels; all but the last change the size."""
  levels = {}
  inputs = entry
  for i, width in enumerate(widths):
    blocks = {j: _residual(width if j else inputs, width) for j in range(depth)}
    last = i == len(widths) - 1
    levels[i] = Level(blocks=blocks, resample=None if last else conv2d_spec(3, width, width))
    inputs = width
  return levels


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  fine = c.widths[0]
  coarse = c.widths[-1]
  encoder = Half(
    entry=conv2d_spec(3, c.images, fine),
    levels=_levels(c.widths, fine, c.depth),
    middle=_middle(coarse),
    norm=norm_spec(coarse, 'layer'),
    out=conv2d_spec(3, coarse, 2 * c.channels),
  )
  decoder = Half(
    entry=conv2d_spec(3, c.channels, coarse),
    levels=_levels(c.widths[::-1], coarse, c.depth + 1),
    middle=_middle(coarse),
    norm=norm_spec(fine, 'layer'),
    out=conv2d_spec(3, fine, c.images),
  )
  return Params(encoder=encoder, decoder=decoder)


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random weights."""
  return draw(key, spec(config), dtype)
