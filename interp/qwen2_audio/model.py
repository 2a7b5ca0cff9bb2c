"""Qwen2-Audio: log-mel frames → Whisper's encoder → mean of pairs → norm → projector → in place of embeddings.

B rows   T tokens   M recordings of all rows   F mel frames   S encoder positions   D width   V vocabulary
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder, encoder, tap
from core import params as params_lib
from core.mesh import RULES
from core.params import Spec, zeros
from core.tap import MODEL_SITES
from interp.qwen2_audio.config import POOL, Config, audio_tokens
from interp.whisper import model as whisper
from interp.whisper.config import NORM_EPS

AUDIO = 'audio.'  # before the names of the audio tower's sites
SITES = (*(f'{AUDIO}{site}' for site in MODEL_SITES), *MODEL_SITES)


@struct.dataclass
class Params:
  """All weights. projector [audio width, D] and its bias [D]."""

  conv1: whisper.Conv
  conv2: whisper.Conv
  positions: Any
  blocks: encoder.Block
  norm: encoder.Norm
  projector: Any
  projector_bias: Any
  language: decoder.Params


def spec(c: Config) -> Params:
  """Every weight, once."""
  return Params(
    **whisper.encoder_spec(c.audio),
    projector=Spec((c.audio.width, c.language.width), (None, 'embed')),
    projector_bias=Spec((c.language.width,), (None,), zeros),
    language=decoder.spec(c.language),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Initial weights."""
  return params_lib.init(key, spec(config), dtype)


def audio(
  params: Params, config: Config, mel: jax.Array, frames: jax.Array, *, edit=None, keep=(), rules=RULES
) -> tuple[jax.Array, dict]:
  """(vectors [M, S/2, D] for the language model, kept activations) of log-mel windows [M, F, mels].

  frames: int32 [M], of each recording; padding after them is not attended to. The first `config.audio_tokens(frames)`
  vectors of a recording are its own. Sites have the prefix `audio.`; `audio.final` is after pooling and norm.
  """
  c = config.audio
  note, first = tap.taps(edit, keep, 0, AUDIO)
  x = note('embed', whisper.embed(params, c, mel))
  positions = (frames - 1) // 2 + 1
  heard = jnp.arange(x.shape[1]) < positions[:, None]
  options = {'edit': edit, 'keep': keep, 'prefix': AUDIO, 'rules': rules}
  x, kept = encoder.apply(params.blocks, c.encoder, x, mask=heard, **options)
  pairs = x.reshape(x.shape[0], -1, POOL, x.shape[2])
  x = encoder.normalise(pairs.mean(2), params.norm, NORM_EPS)
  note, last = tap.taps(edit, keep, c.encoder_depth - 1, AUDIO)
  x = note('final', x)
  vectors = params_lib.einsum('msa,ad->msd', x, params.projector) + params.projector_bias
  return vectors, first | kept | last


def embed(params: Params, config: Config, tokens: jax.Array, vectors: jax.Array, frames: jax.Array) -> jax.Array:
  """Embeddings [B, T, D] of tokens [B, T], those of audio replaced by `vectors` [M, S/2, D] in reading order."""
  x = decoder.embed(params.language, tokens)
  is_audio = tokens == config.audio_token
  own = jnp.arange(vectors.shape[1]) < audio_tokens(frames)[:, None]
  order = jnp.argsort(~own.reshape(-1), stable=True)  # each recording's own vectors, one recording after the other
  index = jnp.cumsum(is_audio.reshape(-1)) - 1
  flat = vectors.reshape(-1, vectors.shape[-1])[order]
  heard = flat[jnp.maximum(index, 0)].reshape(x.shape)
  return jnp.where(is_audio[..., None], heard.astype(x.dtype), x)


def apply(
  params: Params,
  config: Config,
  tokens: jax.Array,
  *,
  mel: jax.Array | None = None,
  frames: jax.Array | None = None,
  edit=None,
  keep=(),
  rules=RULES,
  **options: Any,
) -> decoder.Output:
  """Logits for int32 tokens [B, T], with the recordings that their audio tokens stand for.

  mel: [M, F, mels] in reading order; frames: int32 [M]. edit, keep: as in `core.tap`, with the names of SITES. options:
  as in `core.decoder.forward`. Raises ValueError for an unknown site.
  """
  tap.check(keep, SITES)
  kept = {}
  if mel is None:
    x = decoder.embed(params.language, tokens)
  else:
    vectors, kept = audio(params, config, mel, frames, edit=edit, keep=keep, rules=rules)
    x = embed(params, config, tokens, vectors, frames)
  own = tuple(k for k in keep if not tap.site_of(k).startswith(AUDIO))
  out = decoder.forward(params.language, config.language, x, edit=edit, keep=own, rules=rules, **options)
  logits = decoder.logits(params.language, config.language, out.hidden)
  return decoder.Output(logits=logits, cache=out.cache, kept=kept | out.kept)
