"""Rotary positions in a published config.json: plain, YaRN and Llama 3's."""

from typing import Any

from core.files.config import CheckpointError, Keys, check, naming, require
from core.layers import Llama3Rope, RopeScaling, Yarn

_WHOLE = {'partial_rotary_factor': (1, 1.0)}
_SHARED = ('rope_theta', 'rope_type', 'type')
_YARN = (
  'attention_factor',
  'beta_fast',
  'beta_slow',
  'factor',
  'mscale',
  'mscale_all_dim',
  'original_max_position_embeddings',
  'truncate',
)
_LLAMA3 = ('factor', 'high_freq_factor', 'low_freq_factor', 'original_max_position_embeddings')
KINDS = {
  'default': Keys(read=_SHARED, fixed=_WHOLE),
  'yarn': Keys(read=(*_SHARED, *_YARN), fixed=_WHOLE),
  'llama3': Keys(read=(*_SHARED, *_LLAMA3), fixed=_WHOLE),
}


def scaling(rope: dict, h: dict) -> RopeScaling | None:
  """The extension of the context that `rope`, an object of the config `h`, describes; None where there is none.

  Raises CheckpointError for a kind, key or value that is not supported.
  """
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in KINDS:
    raise CheckpointError(f'rope_type {kind!r}; expected {" or ".join(KINDS)}')
  with naming(f'{kind} rope parameters'):
    check(rope, KINDS[kind])
    if kind == 'default':
      return None
    if kind == 'yarn':
      return _yarn(rope, h)
    return _llama3(rope)


def _yarn(rope: dict, h: dict) -> Yarn:
  original = rope.get('original_max_position_embeddings') or require(h, 'max_position_embeddings', kind=int)
  return Yarn(
    factor=require(rope, 'factor'),
    original_length=original,
    beta_fast=_or(rope.get('beta_fast'), 32.0),
    beta_slow=_or(rope.get('beta_slow'), 1.0),
    truncate=_or(rope.get('truncate'), True),
    scale=_yarn_scale(rope),
  )


def _yarn_scale(rope: dict) -> float | None:
  """What cos and sin are multiplied by, where the file says something else than 0.1 ln(factor) + 1."""
  if rope.get('attention_factor') is not None:
    return float(rope['attention_factor'])
  above = rope.get('mscale')
  below = rope.get('mscale_all_dim')
  # Like transformers: only the two together count, and 0 counts as absent.
  if not (above and below):
    return None
  return Yarn.temperature(rope['factor'], above) / Yarn.temperature(rope['factor'], below)


def _llama3(rope: dict) -> Llama3Rope:
  return Llama3Rope(
    factor=float(require(rope, 'factor')),
    original_length=require(rope, 'original_max_position_embeddings', kind=int),
    low_freq_factor=float(require(rope, 'low_freq_factor')),
    high_freq_factor=float(require(rope, 'high_freq_factor')),
  )


def _or(value: Any, default: Any) -> Any:
  if value is None:
    return default
  return value


def written(scaling: RopeScaling | None, theta: float) -> dict:
  """The `rope_parameters` of a published config."""
  if scaling is None:
    return {'rope_type': 'default', 'rope_theta': theta}
  shared = {
    'rope_theta': theta,
    'factor': scaling.factor,
    'original_max_position_embeddings': scaling.original_length,
  }
  if isinstance(scaling, Llama3Rope):
    factors = {'low_freq_factor': scaling.low_freq_factor, 'high_freq_factor': scaling.high_freq_factor}
    return {'rope_type': 'llama3'} | shared | factors
  turns = {'beta_fast': scaling.beta_fast, 'beta_slow': scaling.beta_slow, 'truncate': scaling.truncate}
  rope = {'rope_type': 'yarn'} | shared | turns
  if scaling.scale is None:
    return rope
  return rope | {'attention_factor': scaling.scale}
