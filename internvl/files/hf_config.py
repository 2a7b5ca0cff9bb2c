"""The `config.json` of InternVL's published folders, in the original layout and in the -HF one."""

import dataclasses
from typing import Any

from core.decoder import hf_config as language_config
from core.files import store
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import CheckpointError, Folder, FolderPath
from internvl import vision
from internvl.flash import router
from internvl.model import Config

IMAGE_TOKEN = '<IMG_CONTEXT>'
MODEL_TYPES = ('internvl_chat', 'internvl')
# Published key of a Flash model -> field of `internvl.flash.router.Config`.
FLASH_KEYS = {
  'flash_mode': 'enabled',
  'flash_relative_threshold': 'relative',
  'flash_absolute_threshold': 'absolute',
}


def _side(value: Any) -> int:
  """An image or patch size given as an int or an equal pair."""
  sides = value if isinstance(value, list) else [value]
  if len(set(sides)) != 1 or not isinstance(sides[0], int):
    raise CheckpointError(f'size {value!r}; expected one side, or two equal ones')
  return sides[0]


_VISION_READ = (
  'attention_bias',
  'hidden_size',
  'image_size',
  'intermediate_size',
  'layer_norm_eps',
  'layer_scale_init_value',
  'norm_type',
  'num_attention_heads',
  'num_hidden_layers',
  'patch_size',
  'qk_normalization',
  'qkv_bias',
  'use_qk_norm',
  'drop_path_rate',
)
VISION_KEYS = Keys(
  read=_VISION_READ,
  fixed={
    'hidden_act': ('gelu',),
    'num_channels': (3,),
    'use_absolute_position_embeddings': (True,),
    'use_mask_token': (False,),
  },
  # Dropout, pooling and precision of parts that a language model never sees.
  ignored=('dropout', 'hidden_dropout_prob', 'projection_dropout', 'use_fa3', 'use_mean_pooling'),
)
MODEL_KEYS = Keys(
  read=(
    *FLASH_KEYS,
    'downsample_ratio',
    'force_image_size',
    'image_token_id',
    'llm_config',
    'text_config',
    'tie_word_embeddings',
    'vision_config',
  ),
  fixed={
    'pad2square': (False,),
    'projector_hidden_act': ('gelu',),
    'ps_version': ('v2',),
    'select_layer': (-1,),
    # LoRA weights merged into none of the tensors would be needed as well.
    'use_backbone_lora': (0, False),
    'use_llm_lora': (0, False),
    'vision_feature_layer': (-1,),
    'vision_feature_select_strategy': ('default',),
  },
  # What the processor reads, and what follows from other keys.
  ignored=(
    'dynamic_image_size',
    'hidden_size',
    'image_fold',
    'image_seq_length',
    'img_context_token_id',
    'max_dynamic_patch',
    'min_dynamic_patch',
    'num_image_token',
    'system_message',
    'template',
    'use_thumbnail',
  ),
)


def _vision_from(h: dict) -> vision.Config:
  norms = {'layer_norm': 'layer', 'rms_norm': 'rms'}
  with naming('vision_config'):
    check(h, VISION_KEYS)
    kind = h.get('norm_type', 'rms_norm')
    if kind not in norms:
      raise CheckpointError(f'norm_type {kind!r}; expected one of {sorted(norms)}')
    return vision.Config(
      width=require(h, 'hidden_size', kind=int),
      mlp_width=require(h, 'intermediate_size', kind=int),
      depth=require(h, 'num_hidden_layers', kind=int),
      heads=require(h, 'num_attention_heads', kind=int),
      norm=norms[kind],
      qkv_bias=require(h, 'qkv_bias', 'attention_bias'),
      qk_norm=require(h, 'qk_normalization', 'use_qk_norm'),
      image_size=_side(require(h, 'image_size')),
      patch=_side(require(h, 'patch_size')),
      norm_eps=h.get('layer_norm_eps', 1e-6),
      drop_path=h.get('drop_path_rate', 0.0),
      layer_scale=h.get('layer_scale_init_value', h.get('initializer_factor', 0.1)),
    )


def _image_token(folder: Folder, h: dict) -> int:
  """The id of `<IMG_CONTEXT>`: stated by layout B, else found by string among the tokenizer's added tokens."""
  if h.get('image_token_id') is not None:
    return h['image_token_id']
  if folder.has('added_tokens.json'):
    added = read_json(folder, 'added_tokens.json')
  elif folder.has('tokenizer.json'):
    added = {t['content']: t['id'] for t in read_json(folder, 'tokenizer.json').get('added_tokens', [])}
  else:
    raise CheckpointError(f'{folder}: config.json has no image_token_id and there is no tokenizer to find it in')
  if IMAGE_TOKEN not in added:
    raise CheckpointError(f'{folder}: the tokenizer has no token {IMAGE_TOKEN}')
  return added[IMAGE_TOKEN]


def _flash_from(h: dict) -> router.Config | None:
  """The decision rule of a Flash model; None where no key of it is given."""
  fields = {field: h[key] for key, field in FLASH_KEYS.items() if h.get(key) is not None}
  if not fields:
    return None
  enabled = fields.setdefault('enabled', True)
  if enabled not in (True, False):  # 0 and 1 pass, as the published code takes them
    raise CheckpointError(f'flash_mode={enabled!r}; expected true or false')
  for field, value in fields.items():
    if not isinstance(value, (int, float)):
      raise CheckpointError(f'flash {field} threshold {value!r}; expected a number')
  return router.Config(**fields | {'enabled': bool(enabled)})


def config_from(path: FolderPath) -> Config:
  """The model configuration of a folder in any layout. Raises CheckpointError naming key and value at fault."""
  folder = store.folder(path)
  h = read_json(folder, 'config.json')
  with naming(f'{folder}/config.json'):
    kind = h.get('model_type')
    if kind not in MODEL_TYPES:
      raise CheckpointError(f'model_type {kind!r}; expected {" or ".join(map(repr, MODEL_TYPES))}')
    check(h, MODEL_KEYS)
    tower = _vision_from(require(h, 'vision_config'))
    if h.get('force_image_size') is not None:
      tower = dataclasses.replace(tower, image_size=_side(h['force_image_size']))
    ratio = require(h, 'downsample_ratio')
    if not 0 < ratio <= 1 or 1 % ratio:
      raise CheckpointError(f'downsample_ratio={ratio!r}; expected 1, 0.5, 0.25, …')
    key = 'llm_config' if h.get('llm_config') else 'text_config'
    language = language_config.config_from(require(h, key), key)
    return Config(tower, language, _image_token(folder, h), round(1 / ratio), _flash_from(h))


def config_to(c: Config, layout: str) -> dict:
  """The `config.json` of layout 'A' or 'B'."""
  v = c.vision
  tower = {
    'hidden_size': v.width,
    'intermediate_size': v.mlp_width,
    'num_hidden_layers': v.depth,
    'num_attention_heads': v.heads,
    'norm_type': 'rms_norm' if v.norm == 'rms' else 'layer_norm',
    'layer_norm_eps': v.norm_eps,
    'hidden_act': 'gelu',
    'num_channels': 3,
  }
  shared = {'downsample_ratio': 1 / c.shuffle, 'image_token_id': c.image_token, 'tie_word_embeddings': c.language.tied}
  if c.flash:
    shared |= {key: getattr(c.flash, field) for key, field in FLASH_KEYS.items()}
  if layout == 'A':
    tower |= {
      'model_type': 'intern_vit_6b',
      'image_size': v.image_size,
      'patch_size': v.patch,
      'qkv_bias': v.qkv_bias,
      'qk_normalization': v.qk_norm,
      'drop_path_rate': v.drop_path,
      'initializer_factor': v.layer_scale,
    }
    return shared | {
      'model_type': 'internvl_chat',
      'architectures': ['InternVLChatModel'],
      'vision_config': tower,
      'llm_config': language_config.config_to(c.language),
      'select_layer': -1,
      'ps_version': 'v2',
      'force_image_size': v.image_size,
    }
  tower |= {
    'model_type': 'internvl_vision',
    'image_size': [v.image_size] * 2,
    'patch_size': [v.patch] * 2,
    'attention_bias': v.qkv_bias,
    'use_qk_norm': v.qk_norm,
    'layer_scale_init_value': v.layer_scale,
    'use_mean_pooling': True,
  }
  return shared | {
    'model_type': 'internvl',
    'architectures': ['InternVLForConditionalGeneration'],
    'vision_config': tower,
    'text_config': language_config.config_to(c.language),
    'vision_feature_layer': -1,
    'vision_feature_select_strategy': 'default',
    'projector_hidden_act': 'gelu',
    'image_seq_length': c.tokens_per_tile,
  }
