"""Layout A files made from layout B's by the published correspondence of names, independently of our writer."""

import json
import pathlib
import re

import numpy as np
from safetensors.numpy import load_file, save_file

RENAMES = (
  ('vision_tower.embeddings.cls_token', 'vision_model.embeddings.class_embedding'),
  ('vision_tower.embeddings.position_embeddings', 'vision_model.embeddings.position_embedding'),
  ('vision_tower.embeddings.patch_embeddings.projection.', 'vision_model.embeddings.patch_embedding.'),
  ('vision_tower.encoder.layer.', 'vision_model.encoder.layers.'),
  ('.layernorm_before.', '.norm1.'),
  ('.layernorm_after.', '.norm2.'),
  ('.attention.projection_layer.', '.attn.proj.'),
  ('.attention.', '.attn.'),
  ('.lambda_1', '.ls1'),
  ('.lambda_2', '.ls2'),
  ('multi_modal_projector.layer_norm.', 'mlp1.0.'),
  ('multi_modal_projector.linear_1.', 'mlp1.1.'),
  ('multi_modal_projector.linear_2.', 'mlp1.3.'),
)
METADATA = {'format': 'pt'}


def write_a(b: pathlib.Path, a: pathlib.Path) -> None:
  """The model in folder `b` (layout B) as the original remote-code files in folder `a`."""
  tensors = {}
  for name, w in load_file(b / 'model.safetensors').items():
    if not name.startswith('language_model.'):
      for old, new in RENAMES:
        name = name.replace(old, new)
    tensors[name] = w
  for q in [n for n in tensors if '.attn.q_proj.' in n]:
    tensors[q.replace('q_proj', 'qkv')] = np.concatenate([tensors.pop(q.replace('q_proj', f'{n}_proj')) for n in 'qkv'])
  h = json.loads((b / 'config.json').read_text())
  v = h['vision_config']
  config = {
    'model_type': 'internvl_chat',
    'select_layer': -1,
    'downsample_ratio': 0.5,
    'ps_version': 'v2',
    'force_image_size': v['image_size'][0],
    'llm_config': h['text_config'],
    'vision_config': {
      'model_type': 'intern_vit_6b',
      'image_size': v['image_size'][0],
      'patch_size': v['patch_size'][0],
      'qkv_bias': v['attention_bias'],
      'qk_normalization': v['use_qk_norm'],
      'drop_path_rate': 0.1,
      'initializer_factor': 0.1,
      **{
        k: v[k]
        for k in (
          'hidden_size',
          'intermediate_size',
          'num_hidden_layers',
          'num_attention_heads',
          'norm_type',
          'layer_norm_eps',
        )
      },
    },
  }
  a.mkdir()
  save_file(tensors, a / 'model.safetensors', metadata=METADATA)
  (a / 'config.json').write_text(json.dumps(config))
  (a / 'added_tokens.json').write_text(json.dumps({'<img>': 1, '<IMG_CONTEXT>': h['image_token_id']}))


def write_c(b: pathlib.Path, c: pathlib.Path) -> None:
  """The model in folder `b` (layout B) under the in-memory names of transformers 5."""
  tensors = {}
  for name, w in load_file(b / 'model.safetensors').items():
    name = name.replace('language_model.model.', 'model.language_model.').replace('language_model.lm_head.', 'lm_head.')
    tensors[re.sub('^(vision_tower|multi_modal_projector)', r'model.\1', name)] = w
  for gate in sorted(n for n in tensors if n.endswith('experts.0.gate_proj.weight')):
    at = gate.removesuffix('0.gate_proj.weight')
    take = lambda j, n, at=at: tensors.pop(f'{at}{j}.{n}_proj.weight')
    experts = range(sum(n.startswith(at) for n in tensors) // 3)
    fused = [np.concatenate([take(j, 'gate'), take(j, 'up')]) for j in experts]
    tensors[f'{at}gate_up_proj'] = np.stack(fused)
    tensors[f'{at}down_proj'] = np.stack([take(j, 'down') for j in experts])
  c.mkdir()
  save_file(tensors, c / 'model.safetensors', metadata=METADATA)
  (c / 'config.json').write_text((b / 'config.json').read_text())
