"""Whisper: an encoder of 30-second windows of speech and a decoder of text (arXiv 2212.04356, section 2.2).

B rows   T mel frames or tokens   S encoder positions   D width   V vocabulary
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import encoder, tap
from core import params as params_lib
from core.mesh import RULES
from core.params import Spec
from core.tap import SITES as BLOCK_SITES
from interp.whisper import decoder
from interp.whisper.config import NORM_EPS, STRIDE, Config, EncoderConfig

ENCODER = 'encoder.'  # before the names of the encoder's sites
ENCODER_SITES = tuple(f'{ENCODER}{site}' for site in ('embed', *BLOCK_SITES, 'final'))
SITES = ENCODER_SITES + decoder.SITES


@struct.dataclass
class Conv:
  """A convolution over time: weight [3, inputs, outputs], bias [outputs]."""

  weight: Any
  bias: Any


@struct.dataclass
class Params:
  """All weights."""

  conv1: Conv
  conv2: Conv
  positions: Any  # [S, D], sinusoids
  blocks: encoder.Block
  norm: encoder.Norm
  decoder: decoder.Params


@struct.dataclass
class Output:
  """logits: float32 [B, T, V]. encoded: [B, S, D] after the encoder's norm. kept: activations by site."""

  logits: jax.Array
  encoded: jax.Array
  kept: dict


def sinusoids(length: int, width: int) -> np.ndarray:
  """The encoder's positions, float32 [length, width]: sines in the first half, cosines in the second."""
  half = width // 2
  rates = np.exp(-np.arange(half) * np.log(10_000) / (half - 1))
  angles = np.arange(length)[:, None] * rates
  return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def encoder_spec(c: EncoderConfig) -> dict[str, Any]:
  """Every weight of the encoder, by field of `Params`."""
  d = c.width

  def conv(inputs):
    weight = Spec((3, inputs, d), (None, None, 'embed'), inputs=2)
    return Conv(weight=weight, bias=Spec((d,), (None,), params_lib.zeros))

  def table(key, shape, dtype):
    return jnp.asarray(sinusoids(*shape), dtype)

  return {
    'conv1': conv(c.mels),
    'conv2': conv(d),
    'positions': Spec((c.audio_length, d), (None, 'embed'), table, inputs=0),
    'blocks': encoder.spec(c.encoder),
    'norm': encoder.norm_spec(d, 'layer'),
  }


def spec(c: Config) -> Params:
  """Every weight, once."""
  return Params(**encoder_spec(c), decoder=decoder.spec(c))


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Initial weights."""
  return params_lib.init(key, spec(config), dtype)


def _conv(x: jax.Array, p: Conv, stride: int) -> jax.Array:
  """Convolution [B, T, I] to [B, T / stride, O], padded by one on either side."""
  dims = ('NHC', 'HIO', 'NHC')
  y = jax.lax.conv_general_dilated(x, p.weight, (stride,), [(1, 1)], dimension_numbers=dims)
  return y + p.bias


def embed(params: Any, config: EncoderConfig, mel: jax.Array) -> jax.Array:
  """[B, S, D] of log-mel frames [B, T, mels], T = 2 S up to a window's.

  params: any that have `conv1`, `conv2` and `positions`. Raises ValueError for another shape.
  """
  fits = mel.ndim == 3 and mel.shape[2] == config.mels
  if not fits or mel.shape[1] % STRIDE or mel.shape[1] > config.frames:
    raise ValueError(f'mel {mel.shape}: expected [rows, at most {config.frames} frames (even), {config.mels}]')
  x = mel.astype(params.conv1.weight.dtype)
  x = jax.nn.gelu(_conv(x, params.conv1, 1), approximate=False)
  x = jax.nn.gelu(_conv(x, params.conv2, STRIDE), approximate=False)
  return x + params.positions[: x.shape[1]].astype(x.dtype)


def encode(
  params: Params, config: Config, mel: jax.Array, *, edit: Callable | None = None, keep=(), rules=RULES
) -> tuple[jax.Array, dict]:
  """(states [B, S, D] after the final norm, kept activations) of log-mel frames [B, T, mels].

  There is no padding mask: silence attends and is attended to. Sites carry the prefix `encoder.`; `embed` and `final`
  are those of layer 0 and of the last.
  """
  tap.check(keep, SITES)
  note, kept = tap.taps(edit, keep, 0, ENCODER)
  x = note('embed', embed(params, config, mel))
  x, blocks = encoder.apply(params.blocks, config.encoder, x, edit=edit, keep=keep, prefix=ENCODER, rules=rules)
  x = encoder.normalise(x, params.norm, NORM_EPS)
  note, last = tap.taps(edit, keep, config.encoder_depth - 1, ENCODER)
  x = note('final', x)
  return x, kept | blocks | last


def apply(
  params: Params, config: Config, mel: jax.Array, tokens: jax.Array, *, edit=None, keep=(), rules=RULES
) -> Output:
  """Logits for int32 tokens [B, T] given log-mel frames [B, frames, mels].

  edit(site, layer, x) -> x and keep: as in `core.tap`, with the names of SITES. Raises ValueError for an unknown site.
  """
  encoded, seen = encode(params, config, mel, edit=edit, keep=keep, rules=rules)
  keys = decoder.cross_keys(params.decoder, encoded)
  out = decoder.forward(params.decoder, config, tokens, keys, edit=edit, keep=keep)
  return Output(logits=decoder.logits(params.decoder, out.hidden), encoded=encoded, kept=seen | out.kept)
