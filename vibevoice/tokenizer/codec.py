"""Whole recordings: audio to latents and back, in pieces of a minute so that memory stays flat.

B batch   N samples   F frames
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from vibevoice.config import TokenizerConfig
from vibevoice.tokenizer import decoder, encoder, tower

CHUNK_FRAMES = 450  # a minute at 7.5 frames a second
# Gaussian sampling divides by it: the published `vae_std` 0.625 is `fix_std` 0.5 over 0.8.
SPREAD = 0.8


@struct.dataclass
class Params:
  """Weights of a tokenizer; None for the half that a model lacks."""

  encoder: tower.Params | None
  decoder: tower.Params | None


def spec(config: TokenizerConfig, *, encodes: bool = True, decodes: bool = True) -> Params:
  """Every weight of the halves asked for, once."""
  return Params(encoder=encoder.spec(config) if encodes else None, decoder=decoder.spec(config) if decodes else None)


def frames(config: TokenizerConfig, samples: int) -> int:
  """Frames of so long a recording: the last may be filled in part only."""
  return -(-samples // config.hop)


@functools.partial(jax.jit, static_argnames=('config', 'tail', 'chunk'))
def encode(
  params: Params,
  config: TokenizerConfig,
  wav: jax.Array,
  *,
  tail: Literal['pad', 'layerwise'] = 'pad',
  chunk: int = CHUNK_FRAMES,
) -> jax.Array:
  """Means float32 [B, ceil(N / hop), latent] of audio [B, N]; noise is `sample`'s.

  tail: what ends a recording that is not whole hops. 'pad': zeros after the waveform, as transformers does, which
  makes a clip's latents independent of its batch. 'layerwise': zeros after each layer's input, as the original does
  for the longest clip. chunk: frames computed at a time. Raises ValueError for an empty recording or another tail.
  """
  if wav.ndim != 2 or not wav.shape[1]:
    raise ValueError(f'audio of shape {wav.shape}; expected [batch, samples] with a sample at least')
  if tail not in ('pad', 'layerwise'):
    raise ValueError(f"tail={tail!r}; expected 'pad' or 'layerwise'")
  if tail == 'pad':
    missing = -wav.shape[1] % config.hop
    wav = jnp.pad(wav, ((0, 0), (0, missing)))
  state = encoder.initial(params.encoder, config, wav.shape[0])

  def step(piece, state):
    return encoder.apply(params.encoder, config, piece, state)

  def last(piece, state):
    return encoder.apply(params.encoder, config, piece, state, ceil=tail == 'layerwise')[0]

  return _in_chunks(step, last, wav, state, chunk * config.hop)


@functools.partial(jax.jit, static_argnames=('config', 'chunk'))
def decode(params: Params, config: TokenizerConfig, latents: jax.Array, *, chunk: int = CHUNK_FRAMES) -> jax.Array:
  """Samples float32 [B, F hop] of latents [B, F, latent] in the tokenizer's own scale.

  Raises ValueError for latents of another width or none at all.
  """
  if latents.ndim != 3 or latents.shape[2] != config.latent or not latents.shape[1]:
    raise ValueError(f'latents of shape {latents.shape}; expected [batch, frames, {config.latent}], a frame at least')
  state = decoder.initial(params.decoder, config, latents.shape[0])

  def step(piece, state):
    return decoder.apply(params.decoder, config, piece, state)

  def last(piece, state):
    return step(piece, state)[0]

  return _in_chunks(step, last, latents, state, chunk)


def _in_chunks(step: Callable, last: Callable, x: jax.Array, state: Any, chunk: int) -> jax.Array:
  """Outputs [B, ...] of x [B, T, ...]: whole chunks by one scanned program, then the rest, of at least one step."""
  count = (x.shape[1] - 1) // chunk
  whole = x[:, : count * chunk]
  rest = x[:, count * chunk :]
  if not count:
    return last(rest, state)
  rows, _, *channels = x.shape
  by_chunk = whole.reshape(rows, count, chunk, *channels)
  pieces = jnp.moveaxis(by_chunk, 1, 0)

  def body(state, piece):
    y, state = step(piece, state)
    return state, y

  state, done = jax.lax.scan(body, state, pieces)
  done = jnp.moveaxis(done, 0, 1)
  done = done.reshape(x.shape[0], -1, *done.shape[3:])
  return jnp.concatenate([done, last(rest, state)], 1)


def sample(config: TokenizerConfig, means: jax.Array, key: jax.Array) -> jax.Array:
  """Latents [B, F, latent] of means, with the noise of the σ-VAE (LatentLM, arXiv 2412.08635).

  'gaussian': one scale a recording from N(0, (std / 0.8)²), times normal noise; 'fix': the scale is std; 'none': none.
  """
  if config.sampling == 'none':
    return means
  scale_key, noise_key = jax.random.split(key)
  scale = jax.random.normal(scale_key, means.shape[:1])
  return noised(config, means, scale, jax.random.normal(noise_key, means.shape))


def noised(config: TokenizerConfig, means: jax.Array, scale: jax.Array, noise: jax.Array) -> jax.Array:
  """`sample` with its normal draws given: scale [B], which 'fix' does not use, and noise [B, F, latent]."""
  if config.sampling == 'gaussian':
    return means + config.std / SPREAD * scale[:, None, None] * noise
  return means + config.std * noise
