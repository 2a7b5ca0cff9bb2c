"""What a sweep of Whisper measures: logits of some tokens after the last one, as `forward` of `interp.patch.sweep`.

Both resume from the patched layer. A patch of the decoder leaves the encoder alone, so its keys are computed once.

B rows   T tokens   L layers   S encoder positions   D width   A tokens asked for
"""

import dataclasses

import jax
import jax.numpy as jnp

from core import encoder
from core.encoder import normalise
from core.tap import taps
from interp.whisper import decoder, model
from interp.whisper.config import NORM_EPS, Config


@dataclasses.dataclass(frozen=True)
class DecoderLogits:
  """float32 [B, A], for patches of the decoder."""

  config: Config

  def __call__(
    self, edit, params: decoder.Params, keys: tuple, stream: jax.Array, answers: jax.Array, *, start
  ) -> jax.Array:
    """keys: `cross_keys` of the audio. stream: `resid_in` [L, B, T, D] of the run to patch. answers: int32 [A]."""
    hidden = decoder.resume(params, self.config, stream, keys, start, edit=edit)
    return _logits(params, hidden, answers)


@dataclasses.dataclass(frozen=True)
class EncoderLogits:
  """float32 [B, A], for patches of the encoder."""

  config: Config

  def __call__(
    self, edit, params: model.Params, stream: jax.Array, tokens: jax.Array, answers: jax.Array, *, start
  ) -> jax.Array:
    """stream: `encoder.resid_in` [L, B, S, D] of the run to patch. tokens: int32 [B, T]. answers: int32 [A]."""
    c = self.config
    x = encoder.resume(params.blocks, c.encoder, stream, start, edit=edit, prefix=model.ENCODER)
    note, _ = taps(edit, (), c.encoder_depth - 1, model.ENCODER)
    encoded = note('final', normalise(x, params.norm, NORM_EPS))
    keys = decoder.cross_keys(params.decoder, encoded)
    hidden = decoder.forward(params.decoder, c, tokens, keys).hidden
    return _logits(params.decoder, hidden, answers)


def _logits(params: decoder.Params, hidden: jax.Array, answers: jax.Array) -> jax.Array:
  """Of the last token, for the answers alone: the whole vocabulary costs more than a small decoder."""
  return jnp.einsum('bd,ad->ba', hidden[:, -1], params.embed[answers], preferred_element_type=jnp.float32)
