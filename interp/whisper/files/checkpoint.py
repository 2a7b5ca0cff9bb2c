"""Whisper's checkpoints: folders of Hugging Face and CTranslate2 and OpenAI's `.pt` files in, Hugging Face out."""

import pathlib
from typing import Any

import jax.numpy as jnp

from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import FolderPath
from core.files.tensors import Files
from core.mesh import RULES
from interp.whisper.config import Config
from interp.whisper.files import other
from interp.whisper.files.names import OUTPUT, names
from interp.whisper.model import Params, spec

# Key of config.json → field.
FIELDS = {
  'd_model': 'width',
  'encoder_attention_heads': 'heads',
  'encoder_layers': 'encoder_depth',
  'decoder_layers': 'decoder_depth',
  'vocab_size': 'vocab',
  'num_mel_bins': 'mels',
  'encoder_ffn_dim': 'mlp_width',
  'max_source_positions': 'audio_length',
  'max_target_positions': 'text_length',
}
KEYS = Keys(
  read=(*FIELDS, 'decoder_attention_heads', 'decoder_ffn_dim'),
  fixed={'model_type': ('whisper',), 'activation_function': ('gelu',), 'scale_embedding': (False,)},
  # About training, or repeated from other keys.
  ignored=(
    'activation_dropout',
    'apply_spec_augment',
    'classifier_proj_size',
    'decoder_layerdrop',
    'dropout',
    'encoder_layerdrop',
    'init_std',
    'mask_feature_length',
    'mask_feature_min_masks',
    'mask_feature_prob',
    'mask_time_length',
    'mask_time_min_masks',
    'mask_time_prob',
    'median_filter_width',
    'num_hidden_layers',
    'tie_word_embeddings',
    'use_weighted_layer_sum',
  ),
)


def config_from(h: dict) -> Config:
  """The configuration of a `config.json`. Raises CheckpointError for what is missing or not supported."""
  check(h, KEYS)
  config = Config(**{field: require(h, key, kind=int) for key, field in FIELDS.items()})
  for key, value in (('decoder_attention_heads', config.heads), ('decoder_ffn_dim', config.mlp_width)):
    if require(h, key, kind=int) != value:
      raise ValueError(f'{key}={h[key]} differs from the encoder: {value}')
  return config


def config_to(config: Config) -> dict:
  """The `config.json` of a configuration."""
  values: dict[str, Any] = {key: getattr(config, field) for key, field in FIELDS.items()}
  return values | {
    'activation_function': 'gelu',
    'architectures': ['WhisperForConditionalGeneration'],
    'decoder_attention_heads': config.heads,
    'decoder_ffn_dim': config.mlp_width,
    'is_encoder_decoder': True,
    'model_type': 'whisper',
    'num_hidden_layers': config.encoder_depth,
    'scale_embedding': False,
  }


def load(path: FolderPath, *, mesh=None, rules=RULES, dtype=jnp.float32) -> tuple[Config, Params]:
  """(config, params) of a published model: a folder of Hugging Face or CTranslate2, or OpenAI's `.pt` file.

  dtype: of all weights. Raises core.files.store.CheckpointError naming what is missing, unexpected, misshapen or
  unreadable, before memory is spent on weights.
  """
  folder = store.folder(path)
  local = folder.local
  if local is not None and local.is_file():
    config, files = other.openai(pathlib.Path(local))
  elif local is not None and (local / 'model.bin').is_file():
    config, files = other.converted(pathlib.Path(local))
  else:
    with naming(f'{folder}/config.json'):
      config = config_from(read_json(folder, 'config.json'))
    files = Files(folder)
  options = {'mesh': mesh, 'rules': rules, 'dtype': dtype, 'unused': (OUTPUT,)}
  return config, weights.load(files, names(), spec(config), **options)


def save(path: FolderPath, config: Config, params: Params) -> None:
  """Writes safetensors and `config.json` as Hugging Face publishes them; the output matrix is the embedding."""
  weights.save(path, params, names(), spec(config))
  weights.save_config(path, config_to(config))
