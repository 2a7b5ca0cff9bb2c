"""What a sweep of Whisper measures: logits of some tokens after the last one, as `forward` of `interp.patch.sweep`.

All resume from the patched layer. A patch of the decoder leaves the encoder alone, so its keys are computed once.

B rows   T tokens   L layers   S encoder positions   D width   A tokens asked for
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from core import encoder
from core.encoder import normalise
from core.tap import taps
from interp.cells import Axes, CellEdit
from interp.patch import sweep, zeros
from interp.whisper import decoder, model
from interp.whisper.config import NORM_EPS, STRIDE, Config

BRANCHES = ('encoder.attn_out', 'encoder.mlp_out')
FRAME_SITES = ('encoder.resid_in', 'encoder.attn_out', 'encoder.resid_out')


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
class EncodedStates:
  """[B, S, D], what the decoder reads, for patches of the encoder."""

  config: Config

  def __call__(self, edit, params: model.Params, kept: Mapping[str, jax.Array], *, start) -> jax.Array:
    """kept: `encoder.resid_in` [L, B, S, D] of the run to patch."""
    return _encoded(params, self.config, kept['encoder.resid_in'][start], edit=edit, start=start)


@dataclasses.dataclass(frozen=True)
class EncoderLogits:
  """float32 [B, A], for patches of the encoder."""

  config: Config

  def __call__(
    self, edit, params: model.Params, kept: Mapping[str, jax.Array], tokens: jax.Array, answers: jax.Array, *, start
  ) -> jax.Array:
    """kept: `encoder.resid_in` [L, B, S, D] of the run to patch. tokens: int32 [B, T]. answers: int32 [A]."""
    stream = kept['encoder.resid_in'][start]
    return _encoder_logits(params, self.config, stream, tokens, answers, edit=edit, start=start)


@dataclasses.dataclass(frozen=True)
class FrameLogits:
  """float32 [B, A], for patches of what a branch adds to one encoder position.

  The patched layer changes at that position alone, so its attention, and its MLP elsewhere, are those of the run to
  patch.
  """

  config: Config

  def __call__(
    self,
    edit: CellEdit,
    params: model.Params,
    kept: Mapping[str, jax.Array],
    tokens: jax.Array,
    answers: jax.Array,
    *,
    start,
  ) -> jax.Array:
    """As `EncoderLogits`; kept: FRAME_SITES of the run to patch."""
    position = edit.cell.position
    x, added, after = (kept[site][start] for site in FRAME_SITES)
    own, own_added = (jax.lax.dynamic_slice_in_dim(whole, position, 1, 1) for whole in (x, added))
    where = {'edit': edit.alone(), 'prefix': model.ENCODER}
    changed = encoder.after_attention(params.blocks, self.config.encoder, own, own_added, start, **where)
    stream = jax.lax.dynamic_update_slice_in_dim(after, changed, position, 1)
    return _encoder_logits(params, self.config, stream, tokens, answers, edit=None, start=start + 1)


def encoder_logits(
  params: model.Params,
  config: Config,
  mel: jax.Array,
  tokens: jax.Array,
  answers: jax.Array,
  axes: Axes,
  values: Mapping[str, jax.Array] | None = None,
  **options,
) -> np.ndarray:
  """Logits [components, layers, heads, positions, B, A] for every patch of the encoder of log-mel windows [B, T, mels].

  tokens, answers: as of `EncoderLogits`. axes, values: as of `interp.patch.sweep`; values are zeros by default.
  options: others of `sweep`. One cell is computed at a time by default: activations of several leave a CPU's cache.
  Raises ValueError as `sweep`, and for positions outside the window.
  """
  length = mel.shape[1] // STRIDE
  outside = [position for position in axes.positions if not 0 <= position < length]
  if outside:
    raise ValueError(f'positions {outside} of the encoder; expected 0 to {length - 1}')
  forward = EncoderLogits(config)
  if axes.positions and set(axes.components) <= set(BRANCHES):
    forward = FrameLogits(config)
  kept = _kept(params, config, mel)
  params = params.replace(decoder=decoder.for_decoding(params.decoder))
  if values is None:
    values = zeros(dict.fromkeys(axes.components, kept['encoder.resid_in']))
  return sweep(forward, axes, values, params, kept, tokens, answers, resume=True, **{'block': 1, **options})


@functools.partial(jax.jit, static_argnames='config')
def _kept(params: model.Params, config: Config, mel: jax.Array) -> dict[str, jax.Array]:
  return model.encode(params, config, mel, keep=FRAME_SITES)[1]


def _encoder_logits(params, c: Config, stream, tokens, answers, *, edit, start) -> jax.Array:
  """From the input to layer `start` of the encoder."""
  encoded = _encoded(params, c, stream, edit=edit, start=start)
  keys = decoder.cross_keys(params.decoder, encoded)
  hidden = decoder.forward(params.decoder, c, tokens, keys).hidden
  return _logits(params.decoder, hidden, answers)


def _encoded(params, c: Config, stream, *, edit, start) -> jax.Array:
  """From the input to layer `start` of the encoder."""
  x = encoder.resume(params.blocks, c.encoder, stream, start, edit=edit, prefix=model.ENCODER)
  note, _ = taps(edit, (), c.encoder_depth - 1, model.ENCODER)
  return note('final', normalise(x, params.norm, NORM_EPS))


def _logits(params: decoder.Params, hidden: jax.Array, answers: jax.Array) -> jax.Array:
  """Of the last token, for the answers alone: the whole vocabulary costs more than a small decoder."""
  return jnp.einsum('bd,ad->ba', hidden[:, -1], params.embed[answers], preferred_element_type=jnp.float32)
