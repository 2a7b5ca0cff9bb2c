"""Whisper from OpenAI's `.pt` files and from CTranslate2's folders."""

import pathlib
from typing import Any

import numpy as np

from core.files.config import naming
from core.files.formats import archives, ctranslate2
from core.files.formats.arrays import Arrays
from core.files.store import CheckpointError
from interp.whisper.config import Config
from interp.whisper.files.names import CTRANSLATE2, OPENAI, rewritten

# What these variables of CTranslate2 must say for the model to be Whisper.
FIXED = {'decoder/pre_norm': 1, 'decoder/activation': 3, 'decoder/scale_embeddings': 0, 'decoder/alibi': 0}
# Projections that CTranslate2 fuses, and what they hold in order.
FUSED = {
  'self_attention.linear_0': ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'),
  'attention.linear_1': ('encoder_attn.k_proj', 'encoder_attn.v_proj'),
}


def openai(path: pathlib.Path) -> tuple[Config, Arrays]:
  """(config, tensors by the names of Hugging Face) of an OpenAI checkpoint; nothing in the file is run."""
  held = archives.read(path)
  if not isinstance(held, dict) or not {'dims', 'model_state_dict'} <= held.keys():
    raise CheckpointError(f"{path}: expected 'dims' and 'model_state_dict' of an OpenAI Whisper checkpoint")
  with naming(f'{path}: dims'):
    config = _config_of_dims(held['dims'])
  tensors = {rewritten(name, OPENAI): array for name, array in held['model_state_dict'].items()}
  return config, Arrays(str(path), tensors)


def _config_of_dims(dims: dict[str, int]) -> Config:
  if (dims['n_text_state'], dims['n_text_head']) != (dims['n_audio_state'], dims['n_audio_head']):
    raise ValueError(f'{dims}: encoder and decoder differ in width or heads')
  return Config(
    width=dims['n_audio_state'],
    heads=dims['n_audio_head'],
    encoder_depth=dims['n_audio_layer'],
    decoder_depth=dims['n_text_layer'],
    vocab=dims['n_vocab'],
    mels=dims['n_mels'],
    audio_length=dims['n_audio_ctx'],
    text_length=dims['n_text_ctx'],
  )


def converted(folder: pathlib.Path) -> tuple[Config, Arrays]:
  """(config, tensors by the names of Hugging Face) of a CTranslate2 folder.

  Raises CheckpointError for a model of another kind, quantised weights, and keys with a bias, which Whisper has not.
  """
  path = folder / 'model.bin'
  model = ctranslate2.read(path)
  if model.spec != 'WhisperSpec':
    raise CheckpointError(f'{path}: a model of kind {model.spec}; expected WhisperSpec')
  with naming(str(path)):
    for name, value in FIXED.items():
      if int(model.variables[name]) != value:
        raise ValueError(f'{name} is {model.variables[name]}; expected {value}')
    tensors = _split(model.variables)
    config = _config_of(model.variables)
  return config, Arrays(str(path), tensors)


def _split(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Whole tensors by the names of Hugging Face; scalars go."""
  out: dict[str, np.ndarray] = {}
  for name, array in variables.items():
    if name == 'decoder/projection/weight':
      if array is not variables['decoder/embeddings/weight']:
        raise ValueError('decoder/projection/weight is not the embedding; Whisper ties them')
    elif name.endswith('_scale'):
      raise ValueError(f'{name}: quantised weights; expected float16, bfloat16 or float32')
    elif array.ndim and not name.endswith('/alignment_heads'):
      out |= _unfused(rewritten(name, CTRANSLATE2), array)
  return out


def _unfused(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
  for fused, parts in FUSED.items():
    start, found, end = name.partition(f'.{fused}.')
    if not found:
      continue
    split = np.split(array, len(parts))
    pieces = {f'{start}.{part}.{end}': piece for part, piece in zip(parts, split)}
    keys = next(key for key in pieces if '.k_proj.' in key)
    if end == 'bias' and pieces.pop(keys).any():
      raise ValueError(f'{keys} is not zero; keys of Whisper have no bias')
    return pieces
  return {name: array}


def _config_of(variables: dict[str, np.ndarray]) -> Config:
  def depth(side: str) -> int:
    return sum(name.startswith(f'{side}/layer_') and name.endswith('ffn/linear_0/weight') for name in variables)

  def shape(name: str) -> tuple[int, ...]:
    return variables[name].shape

  values: dict[str, Any] = {
    'width': shape('decoder/embeddings/weight')[1],
    'heads': int(variables['encoder/num_heads']),
    'encoder_depth': depth('encoder'),
    'decoder_depth': depth('decoder'),
    'vocab': shape('decoder/embeddings/weight')[0],
    'mels': shape('encoder/conv1/weight')[1],
    'mlp_width': shape('encoder/layer_0/ffn/linear_0/weight')[0],
    'audio_length': shape('encoder/position_encodings/encodings')[0],
    'text_length': shape('decoder/position_encodings/encodings')[0],
  }
  return Config(**values)
