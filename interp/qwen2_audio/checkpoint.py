"""Qwen2-Audio's published files in and out."""

import jax.numpy as jnp

from core.decoder import hf, hf_config
from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES
from interp.qwen2_audio.config import Config
from interp.qwen2_audio.model import Params, spec
from interp.whisper.config import EncoderConfig
from interp.whisper.files.names import encoder_names

# Key of the audio tower's configuration → field.
AUDIO = {
  'd_model': 'width',
  'encoder_attention_heads': 'heads',
  'encoder_layers': 'encoder_depth',
  'encoder_ffn_dim': 'mlp_width',
  'num_mel_bins': 'mels',
  'max_source_positions': 'audio_length',
}
AUDIO_KEYS = Keys(
  read=tuple(AUDIO),
  fixed={'model_type': ('qwen2_audio_encoder',), 'activation_function': ('gelu',), 'scale_embedding': (False,)},
  ignored=('activation_dropout', 'attention_dropout', 'dropout', 'encoder_layerdrop', 'init_std', 'num_hidden_layers'),
)
KEYS = Keys(
  read=('audio_config', 'text_config', 'audio_token_index', 'audio_token_id'),
  fixed={'model_type': ('qwen2_audio',)},
  ignored=('ignore_index', 'vocab_size', 'hidden_size', 'tie_word_embeddings'),
)
# The published text_config leaves out what is the default of transformers' Qwen2.
DEFAULTS = {
  'model_type': 'qwen2',
  'hidden_size': 4096,
  'num_hidden_layers': 32,
  'num_attention_heads': 32,
  'num_key_value_heads': 32,
  'rms_norm_eps': 1e-6,
  'rope_theta': 1e4,
  'hidden_act': 'silu',
  'max_position_embeddings': 32768,
}
OLD, NEW = '', 'model.'  # before the names: as published, and as transformers 5 holds them


def config_from(h: dict) -> Config:
  """The configuration of a `config.json`. Raises CheckpointError for what is missing or not supported."""
  check(h, KEYS)
  tower = require(h, 'audio_config')
  check(tower, AUDIO_KEYS)
  audio = EncoderConfig(**{field: require(tower, key, kind=int) for key, field in AUDIO.items()})
  language = hf_config.config_from(DEFAULTS | require(h, 'text_config'), 'text_config')
  token = h.get('audio_token_index', h.get('audio_token_id', 151646))
  return Config(audio=audio, language=language, audio_token=token)


def config_to(c: Config) -> dict:
  """The `config.json` of a configuration."""
  tower = {key: getattr(c.audio, field) for key, field in AUDIO.items()}
  tower |= {'model_type': 'qwen2_audio_encoder', 'activation_function': 'gelu', 'scale_embedding': False}
  return {
    'architectures': ['Qwen2AudioForConditionalGeneration'],
    'audio_config': tower,
    'audio_token_index': c.audio_token,
    'model_type': 'qwen2_audio',
    'text_config': hf_config.config_to(c.language),
  }


def names(c: Config, root: str = OLD) -> Params:
  """The tree of names. root: OLD, as published, or NEW."""
  body = 'language_model.model.'
  head = 'language_model.lm_head.weight'
  if root == NEW:
    body = 'model.language_model.'
    head = 'lm_head.weight'
  at = f'{root}multi_modal_projector.linear.'
  return Params(
    **encoder_names(f'{root}audio_tower.'),
    projector=From(f'{at}weight', 'o i -> i o'),
    projector_bias=From(f'{at}bias'),
    language=hf.names(c.language, body=body, head=head),
  )


def load(path: FolderPath, *, mesh=None, rules=RULES, dtype=jnp.bfloat16) -> tuple[Config, Params]:
  """(config, params) of a published folder, with the names of either version of transformers.

  Raises core.files.store.CheckpointError naming what is missing, unexpected, misshapen or unreadable.
  """
  folder = store.folder(path)
  with naming(f'{folder}/config.json'):
    config = config_from(read_json(folder, 'config.json'))
  files = Files(folder)
  root = NEW if any(name.startswith(f'{NEW}audio_tower.') for name in files.tensors) else OLD
  return config, weights.load(files, names(config, root), spec(config), mesh=mesh, rules=rules, dtype=dtype)


def save(path: FolderPath, config: Config, params: Params) -> None:
  """Writes safetensors and `config.json` as published."""
  weights.save(path, params, names(config), spec(config))
  weights.save_config(path, config_to(config))
