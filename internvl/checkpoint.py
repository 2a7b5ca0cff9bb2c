"""InternVL's published files: three layouts of tensor names in, two out, and their `config.json`.

A: the original remote-code checkpoints (`vision_model.`, `mlp1.`, `language_model.`). B: the files of the `-HF`
checkpoints (`vision_tower.`, `multi_modal_projector.`). C: the in-memory names of transformers 5 (`model.…`),
read only.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp

from core import encoder
from core.decoder import hf
from core.files import weights
from core.files.weights import CheckpointError, Files, From, read_json, require
from core.mesh import RULES
from internvl import projector, vision
from internvl.model import Config, Params, spec

IMAGE_TOKEN = '<IMG_CONTEXT>'
HEADS = {'A': 'language_model.lm_head.weight', 'B': 'language_model.lm_head.weight', 'C': 'lm_head.weight'}


def layout_of(tensors) -> str:
  """Which layout the tensor names have. Raises CheckpointError when none."""
  for layout, prefix in (('A', 'vision_model.'), ('B', 'vision_tower.'), ('C', 'model.vision_tower.')):
    if any(name.startswith(prefix) for name in tensors):
      return layout
  raise CheckpointError(f'no InternVL vision tower among the tensors {sorted(tensors)[:5]} …')


def names(config: Config, layout: str) -> Params:
  """The tree of tensor names in a layout."""
  if layout not in HEADS:
    raise ValueError(f'layout {layout!r}; expected one of {sorted(HEADS)}')
  body = 'model.language_model.' if layout == 'C' else 'language_model.model.'
  language = hf.names(config.language, body=body, head=HEADS[layout], fused_experts=layout == 'C')
  if layout == 'A':
    projection = _projector(norm='mlp1.0', up='mlp1.1', out='mlp1.3')
    return Params(vision=_vision_a(config.vision), projector=projection, language=language)
  root = 'model.' if layout == 'C' else ''
  at = f'{root}multi_modal_projector.'
  projection = _projector(norm=f'{at}layer_norm', up=f'{at}linear_1', out=f'{at}linear_2')
  return Params(vision=_vision_b(config.vision, f'{root}vision_tower.'), projector=projection, language=language)


def _projector(*, norm: str, up: str, out: str) -> projector.Params:
  flip = lambda name: From(f'{name}.weight', 'o i -> i o')
  return projector.Params(
    norm=From(f'{norm}.weight'),
    norm_bias=From(f'{norm}.bias'),
    up=flip(up),
    up_bias=From(f'{up}.bias'),
    out=flip(out),
    out_bias=From(f'{out}.bias'),
  )


def _norm(name: str, c: vision.Config) -> encoder.Norm:
  bias = From(f'{name}.bias') if c.norm == 'layer' else None
  return encoder.Norm(scale=From(f'{name}.weight'), bias=bias)


def _block(c: vision.Config, at: str, attn: encoder.Attention, norms: tuple[str, str], scales: tuple[str, str]):
  flip = lambda name: From(f'{at}mlp.{name}.weight', 'o i -> i o')
  return encoder.Block(
    attn_norm=_norm(at + norms[0], c),
    attn=attn,
    attn_scale=From(at + scales[0]),
    mlp_norm=_norm(at + norms[1], c),
    up=flip('fc1'),
    up_bias=From(f'{at}mlp.fc1.bias'),
    down=flip('fc2'),
    down_bias=From(f'{at}mlp.fc2.bias'),
    mlp_scale=From(at + scales[1]),
  )


def _stem(*, cls: str, positions: str, patch: str, blocks: encoder.Block) -> vision.Params:
  return vision.Params(
    cls=From(cls, '1 1 d -> d'),
    positions=From(positions, '1 p d -> p d'),
    patch=From(f'{patch}.weight', 'd i y x -> y x i d'),
    patch_bias=From(f'{patch}.bias'),
    blocks=blocks,
  )


def _vision_a(c: vision.Config) -> vision.Params:
  at = 'vision_model.encoder.layers.{layer}.'
  fused = lambda part: From(f'{at}attn.qkv.weight', '(part n h) d -> part d n h', part, 3)
  bias = lambda part: From(f'{at}attn.qkv.bias', '(part n h) -> part n h', part, 3) if c.qkv_bias else None
  full = lambda name: From(f'{at}attn.{name}.weight') if c.qk_norm else None
  attn = encoder.Attention(
    q=fused(0),
    k=fused(1),
    v=fused(2),
    o=From(f'{at}attn.proj.weight', 'd (n h) -> n h d'),
    q_bias=bias(0),
    k_bias=bias(1),
    v_bias=bias(2),
    o_bias=From(f'{at}attn.proj.bias'),
    q_norm=full('q_norm'),
    k_norm=full('k_norm'),
  )
  stem = 'vision_model.embeddings.'
  return _stem(
    cls=f'{stem}class_embedding',
    positions=f'{stem}position_embedding',
    patch=f'{stem}patch_embedding',
    blocks=_block(c, at, attn, ('norm1', 'norm2'), ('ls1', 'ls2')),
  )


def _vision_b(c: vision.Config, root: str) -> vision.Params:
  at = root + 'encoder.layer.{layer}.'
  single = lambda n: From(f'{at}attention.{n}_proj.weight', '(n h) d -> d n h')
  bias = lambda n: From(f'{at}attention.{n}_proj.bias', '(n h) -> n h') if c.qkv_bias else None
  full = lambda name: From(f'{at}attention.{name}.weight') if c.qk_norm else None
  out = f'{at}attention.projection_layer'
  attn = encoder.Attention(
    q=single('q'),
    k=single('k'),
    v=single('v'),
    o=From(f'{out}.weight', 'd (n h) -> n h d'),
    q_bias=bias('q'),
    k_bias=bias('k'),
    v_bias=bias('v'),
    o_bias=From(f'{out}.bias'),
    q_norm=full('q_norm'),
    k_norm=full('k_norm'),
  )
  stem = f'{root}embeddings.'
  return _stem(
    cls=f'{stem}cls_token',
    positions=f'{stem}position_embeddings',
    patch=f'{stem}patch_embeddings.projection',
    blocks=_block(c, at, attn, ('layernorm_before', 'layernorm_after'), ('lambda_1', 'lambda_2')),
  )


def _side(value: Any) -> int:
  """An image or patch size given as an int or an equal pair."""
  sides = value if isinstance(value, list) else [value]
  if len(set(sides)) != 1 or not isinstance(sides[0], int):
    raise CheckpointError(f'config: size {value!r}; expected one side, or two equal ones')
  return sides[0]


def _vision_from(h: dict) -> vision.Config:
  norms = {'layer_norm': 'layer', 'rms_norm': 'rms'}
  kind = h.get('norm_type', 'rms_norm')
  if kind not in norms:
    raise CheckpointError(f'config: vision norm_type {kind!r}; expected one of {sorted(norms)}')
  with weights.naming('vision config'):
    return vision.Config(
      width=require(h, 'hidden_size'),
      mlp_width=require(h, 'intermediate_size'),
      depth=require(h, 'num_hidden_layers'),
      heads=require(h, 'num_attention_heads'),
      norm=norms[kind],
      qkv_bias=require(h, 'qkv_bias', 'attention_bias'),
      qk_norm=require(h, 'qk_normalization', 'use_qk_norm'),
      image_size=_side(require(h, 'image_size')),
      patch=_side(require(h, 'patch_size')),
      norm_eps=h.get('layer_norm_eps', 1e-6),
      drop_path=h.get('drop_path_rate', 0.0),
      layer_scale=h.get('layer_scale_init_value', h.get('initializer_factor', 0.1)),
    )


def _image_token(path: pathlib.Path, h: dict) -> int:
  """The id of `<IMG_CONTEXT>`: stated by layout B, else found by string among the tokenizer's added tokens."""
  if h.get('image_token_id') is not None:
    return h['image_token_id']
  if (path / 'added_tokens.json').exists():
    added = read_json(path / 'added_tokens.json')
  elif (path / 'tokenizer.json').exists():
    added = {t['content']: t['id'] for t in read_json(path / 'tokenizer.json').get('added_tokens', [])}
  else:
    raise CheckpointError(f'{path}: config.json has no image_token_id and there is no tokenizer to find it in')
  if IMAGE_TOKEN not in added:
    raise CheckpointError(f'{path}: the tokenizer has no token {IMAGE_TOKEN}')
  return added[IMAGE_TOKEN]


def config_from(path: pathlib.Path) -> Config:
  """The model configuration of a folder in any layout. Raises CheckpointError naming key and value at fault."""
  h = read_json(path / 'config.json')
  kind = h.get('model_type')
  if kind not in ('internvl_chat', 'internvl'):
    raise CheckpointError(f"{path / 'config.json'}: model_type {kind!r}; expected 'internvl_chat' or 'internvl'")
  fixed = {'select_layer': -1, 'vision_feature_layer': -1, 'ps_version': 'v2', 'projector_hidden_act': 'gelu'}
  for key, value in fixed.items():
    if h.get(key, value) != value:
      raise CheckpointError(f'config: {key}={h[key]!r}; only {value!r} is supported')
  tower = _vision_from(require(h, 'vision_config'))
  if 'force_image_size' in h:
    tower = dataclasses.replace(tower, image_size=_side(h['force_image_size']))
  text = require(h, 'llm_config', 'text_config')
  ratio = require(h, 'downsample_ratio')
  if not 0 < ratio <= 1 or 1 % ratio:
    raise CheckpointError(f'config: downsample_ratio={ratio!r}; expected 1, 0.5, 0.25, …')
  with weights.naming('config'):
    return Config(tower, hf.config_from(text), _image_token(path, h), round(1 / ratio))


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
      'llm_config': hf.config_to(c.language),
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
    'text_config': hf.config_to(c.language),
    'vision_feature_layer': -1,
    'vision_feature_select_strategy': 'default',
    'projector_hidden_act': 'gelu',
    'image_seq_length': c.tokens_per_tile,
  }


def load(path: str | os.PathLike, *, mesh=None, rules=RULES, dtype=jnp.bfloat16) -> tuple[Config, Params]:
  """(config, params) of a published folder, layout A, B or C, straight onto `mesh` (one device by default).

  A stored head is used whatever the tie flag says. Raises core.files.weights.CheckpointError naming what is missing,
  unexpected, misshapen or unreadable, before memory is spent.
  """
  path = pathlib.Path(path)
  config = config_from(path)
  files = Files(path)
  layout = layout_of(files.where)
  tied = HEADS[layout] not in files
  config = dataclasses.replace(config, language=dataclasses.replace(config.language, tied=tied))
  return config, weights.load(files, names(config, layout), spec(config), mesh=mesh, rules=rules, dtype=dtype)


def save(path: str | os.PathLike, config: Config, params: Params, *, layout: str = 'B') -> None:
  """Writes safetensors and `config.json` in layout 'A' or 'B': the names, shapes, dtypes and values as published."""
  if layout not in ('A', 'B'):
    raise ValueError(f"layout {layout!r}; expected 'A' or 'B'")
  weights.save(path, params, names(config, layout), spec(config))
  pathlib.Path(path, 'config.json').write_text(json.dumps(config_to(config, layout), indent=2, sort_keys=True) + '\n')
