"""Voice presets of Realtime: what the model has computed after reading a voice, stored in place of the voice.

N positions   L layers   K key heads   H head size   D width
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.files.config import naming, require
from core.files.formats import archives
from core.files.store import CheckpointError
from core.past import Cache
from vibevoice.config import RealtimeConfig


@struct.dataclass
class Reading:
  """What one stack has read. hidden: its last hidden states [1, N, D]. cache: of N slots, all of them full
  (`core.past.rows.grown` makes space)."""

  hidden: jax.Array
  cache: Cache


@struct.dataclass(kw_only=True)
class Preset:
  """The state of all four streams. Upper stacks of a voice have read frames of speech, then their transcript."""

  lower: Reading
  upper: Reading
  negative_lower: Reading
  negative_upper: Reading


# Published name -> (ours, which stack of the model).
STREAMS = {
  'lm': ('lower', 'lower'),
  'tts_lm': ('upper', 'upper'),
  'neg_lm': ('negative_lower', 'lower'),
  'neg_tts_lm': ('negative_upper', 'upper'),
}


def load(path: str | os.PathLike, config: RealtimeConfig, *, dtype=None) -> Preset:
  """The preset of a published `.pt` file, in which nothing is executed; `dtype` as in `from_tree`.

  Raises CheckpointError, naming the file, when it names a class that is not allowed, is damaged, or belongs to another
  model.
  """
  return from_tree(archives.read(path), config, where=os.fspath(path), dtype=dtype)


def from_tree(tree: Mapping[str, Any], config: RealtimeConfig, *, where: str = 'preset', dtype=None) -> Preset:
  """The preset of a published file's contents: a mapping of four streams, each with hidden state, keys and values.

  dtype: of the caches and hidden states; None: as stored. Raises CheckpointError, naming `where`, for a stream that is
  missing or that a model of this config cannot continue.
  """
  readings = {}
  for name, (ours, stack) in STREAMS.items():
    with naming(f'{where}: {name}'):
      stream = require(dict(tree), name)
      readings[ours] = _reading(stream, getattr(config, stack), dtype)
  return Preset(**readings)


def _reading(stream: Mapping[str, Any], config: decoder.Config, dtype) -> Reading:
  hidden = np.asarray(require(stream, 'last_hidden_state'))
  past = require(stream, 'past_key_values')
  positions = hidden.shape[1]
  _check_shape('last_hidden_state', hidden, (1, positions, config.width))
  keys = _layers(require(past, 'key_cache'), 'key_cache', config, positions)
  values = _layers(require(past, 'value_cache'), 'value_cache', config, positions)
  if dtype is None:
    dtype = hidden.dtype
  cache = Cache(
    k=jnp.asarray(keys, dtype),
    v=jnp.asarray(values, dtype),
    positions=jnp.arange(positions, dtype=jnp.int32)[None],
    length=jnp.int32(positions),
  )
  return Reading(hidden=jnp.asarray(hidden, dtype), cache=cache)


def _layers(layers: list, name: str, config: decoder.Config, positions: int) -> np.ndarray:
  """[L, 1, K, N, H] of the stored arrays of all layers."""
  if len(layers) != config.depth:
    raise CheckpointError(f'{name} of {len(layers)} layers; this model has {config.depth}')
  for i, layer in enumerate(layers):
    _check_shape(f'{name}[{i}]', layer, (1, config.kv_heads, positions, config.head_dim))
  return np.stack(layers)


def _check_shape(name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
  if array.shape != expected:
    raise CheckpointError(f'{name}: shape {array.shape}; this model expects {expected}')
