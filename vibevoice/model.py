"""The TTS model: a language model over text and frames of speech, whose hidden states condition the diffusion head.

B batch   T time   F frames   C acoustic latent   S semantic width   D language width   V vocabulary
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder
from core import params as params_lib
from core.mesh import RULES
from vibevoice import connector, scaling, tokenizer
from vibevoice.config import Config
from vibevoice.diffusion import head


@struct.dataclass(kw_only=True)
class Params:
  """Weights of the whole model."""

  language: decoder.Params
  acoustic: tokenizer.Params
  semantic: tokenizer.Params  # an encoder only
  acoustic_connector: connector.Params
  semantic_connector: connector.Params
  head: head.Params
  scaling: scaling.Params


@struct.dataclass
class Frames:
  """What slots take.

  latents [B, F, C]: scaled acoustic latents (`vibevoice.scaling.to_model`) of voice prompts and speech. semantic
  [B, F, S]: features that are added where bool `spoken` [B, F] is true, that is in speech and not in voice prompts;
  without `spoken` everywhere.
  """

  latents: Any
  semantic: Any = None
  spoken: Any = None


@struct.dataclass
class Output:
  """hidden [B, T, D], which conditions the head at the next frame; logits float32 [B, T, V]; cache and kept as given
  by `core.decoder.forward`."""

  hidden: Any
  logits: Any
  cache: Any = None
  kept: Any = None


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  width = config.language.width
  return Params(
    language=decoder.spec(c.language),
    acoustic=tokenizer.spec(c.acoustic),
    semantic=tokenizer.spec(c.semantic, decodes=False),
    acoustic_connector=connector.spec(c.acoustic.latent, width),
    semantic_connector=connector.spec(c.semantic.latent, width),
    head=head.spec(c.head),
    scaling=scaling.spec(),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return params_lib.init(key, spec(config), dtype)


def embed_frames(params: Params, latents: jax.Array, semantic: jax.Array | None = None) -> jax.Array:
  """Embeddings [B, F, D] of frames: scaled latents [B, F, C] and, of speech that is said, semantic features [B, F, S].

  A voice prompt has no semantic part.
  """
  x = connector.apply(params.acoustic_connector, latents)
  if semantic is None:
    return x
  return x + connector.apply(params.semantic_connector, semantic)


def embed(params: Params, config: Config, tokens: jax.Array, frames: Frames | None = None, rules=RULES) -> jax.Array:
  """Embeddings [B, T, D] of int32 tokens [B, T], whose slots take the row's `frames` in order.

  Without frames slots stay as they are. A slot beyond the last frame takes the last.
  """
  x = decoder.embed(params.language, tokens, rules)
  if frames is None:
    return x
  at_frames = connector.apply(params.acoustic_connector, frames.latents)
  if frames.semantic is not None:
    said = connector.apply(params.semantic_connector, frames.semantic)
    if frames.spoken is not None:
      said = jnp.where(frames.spoken[..., None], said, 0)
    at_frames = at_frames + said
  return place_frames(x, tokens == config.slot, at_frames)


def place_frames(x: jax.Array, slots: jax.Array, at_frames: jax.Array) -> jax.Array:
  """x [B, T, D] whose slots, bool [B, T], take the embeddings [B, F, D] of the row's frames in order."""
  index = jnp.maximum(jnp.cumsum(slots, 1) - 1, 0)
  at_slots = jnp.take_along_axis(at_frames, index[..., None], 1, mode='clip')
  return jnp.where(slots[..., None], at_slots.astype(x.dtype), x)


def forward(
  params: Params, config: Config, tokens: jax.Array, frames: Frames | None = None, *, rules=RULES, **options: Any
) -> decoder.Hidden:
  """Hidden states of int32 tokens [B, T] and their frames; `options` as in `core.decoder.forward`."""
  x = embed(params, config, tokens, frames, rules)
  return decoder.forward(params.language, config.language, x, rules=rules, **options)


def apply(params: Params, config: Config, tokens: jax.Array, frames: Frames | None = None, **options: Any) -> Output:
  """Hidden states and logits of int32 tokens [B, T] and their frames; `options` as in `forward`."""
  out = forward(params, config, tokens, frames, **options)
  logits = decoder.logits(params.language, config.language, out.hidden)
  return Output(hidden=out.hidden, logits=logits, cache=out.cache, kept=out.kept)
