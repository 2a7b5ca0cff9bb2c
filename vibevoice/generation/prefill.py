"""The state before the first step: voices encoded, prompts through the language model.

B rows   T prompt tokens   F frames of voices   C latent
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder, padding
from core.past import cache as caches
from core.past import rows as rows_lib
from vibevoice import model, scaling, tokenizer
from vibevoice.config import Config
from vibevoice.generation.state import State
from vibevoice.inputs.processor import Inputs
from vibevoice.tokenizer import decoder as acoustic
from vibevoice.tokenizer import encoder as semantic

VOICE = 2**31 - 2  # folded into a row's key for the noise of its voices' latents


def voice_means(params: model.Params, config: Config, clip: np.ndarray) -> jax.Array:
  """What the acoustic encoder makes of a voice clip float32 [n]: means [1, F, C], which need no seed."""
  count = tokenizer.frames(config.acoustic, len(clip))
  # Clips are padded to few lengths; layers are causal, so the frames before the padding do not change.
  padded = padding.pad(clip, padding.bucket(count, 8) * config.acoustic.hop)
  return tokenizer.encode(params.acoustic, config.acoustic, jnp.asarray(padded)[None])[:, :count]


def latents_of(
  params: model.Params, config: Config, means: Sequence[jax.Array], *, seed: int, sample: bool = True
) -> np.ndarray:
  """Scaled latents float32 [F, C] of voices whose means [1, F, C] are given, one after the other.

  sample: with the noise of the σ-VAE, as the model is trained, one scale a clip; False takes the means.
  """
  stream = jax.random.fold_in(jax.random.key(seed), VOICE)
  parts = [np.zeros((0, config.acoustic.latent), np.float32)]
  for number, mean in enumerate(means):
    if sample:
      mean = tokenizer.sample(config.acoustic, mean, jax.random.fold_in(stream, number))
    parts.append(np.asarray(scaling.to_model(params.scaling, mean))[0])
  return np.concatenate(parts)


def voice_latents(
  params: model.Params, config: Config, voices: Sequence[np.ndarray], *, seed: int, sample: bool = True
) -> np.ndarray:
  """`latents_of` voice clips float32 [n]."""
  means = [voice_means(params, config, clip) for clip in voices]
  return latents_of(params, config, means, seed=seed, sample=sample)


def prefill(
  params: model.Params,
  config: Config,
  inputs: Sequence[Inputs],
  latents: Sequence[np.ndarray],
  *,
  slots: int,
  guided: bool,
) -> State:
  """The state of prompts with the latents [F, C] of their voices, in caches of `slots`.

  Prompts end with START, which is left to the first step: there both branches consume it.
  """
  tokens = [x.tokens[:-1] for x in inputs]
  length = padding.bucket(max(map(len, tokens)))
  frames = padding.batch(latents, dtype=np.float32, length=padding.bucket(max(map(len, latents)), 8))
  return _prefill(
    params,
    config,
    padding.batch(tokens, dtype=np.int32, length=length),
    padding.positions([len(x) for x in tokens], length),
    frames,
    slots=max(slots, length),
    guided=guided,
  )


@functools.partial(jax.jit, static_argnames=('config', 'slots', 'guided'))
def _prefill(params, config: Config, tokens, positions, latents, *, slots: int, guided: bool) -> State:
  rows = tokens.shape[0]
  x = model.embed(params, config, tokens, model.Frames(latents))
  out = decoder.forward(params.language, config.language, x, positions=positions, cache=slots)
  cache = rows_lib.separate(out.cache)
  if guided:
    cache = rows_lib.joined(cache, empty(params, config, rows, slots, x.dtype))
  start = jnp.full((rows, 1), config.start)
  zero = jnp.zeros(rows, jnp.int32)
  no = jnp.zeros(rows, bool)
  return State(
    cache=cache,
    embedding=decoder.embed(params.language, start)[:, 0],
    decoder=acoustic.initial(params.acoustic.decoder, config.acoustic, rows),
    encoder=semantic.initial(params.semantic.encoder, config.semantic, rows),
    frames=zero,
    steps=zero,
    finished=no,
    truncated=no,
    failed=no,
  )


def empty(params: model.Params, config: Config, rows: int, slots: int, dtype) -> caches.Cache:
  """The cache of rows that have read nothing, each with its own length."""
  unstacked = isinstance(params.language.blocks, tuple)
  cache = caches.new(config.language, rows, slots, dtype, unstacked=unstacked)
  return rows_lib.separate(cache)
