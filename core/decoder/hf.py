"""A decoder's published files: `config.json` keys and tensor names of Qwen2/2.5, Qwen3, Qwen3-MoE and GPT-OSS.

Families differ by data only; FAMILIES says what each implies for `core.decoder.Config`.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp

from core import moe
from core.decoder import model as decoder
from core.files import weights
from core.files.weights import CheckpointError, From, read_json, require
from core.layers import Yarn
from core.mesh import RULES

FAMILIES = {
  'qwen2': {'qkv_bias': True, 'architecture': 'Qwen2ForCausalLM'},
  'qwen3': {'qk_norm': True, 'architecture': 'Qwen3ForCausalLM'},
  'qwen3_moe': {'qk_norm': True, 'moe': True, 'architecture': 'Qwen3MoeForCausalLM'},
  'gpt_oss': {'qkv_bias': True, 'out_bias': True, 'sinks': True, 'moe': True, 'architecture': 'GptOssForCausalLM'},
}
_STRUCTURE = ('qkv_bias', 'out_bias', 'qk_norm', 'sinks')


def family(config: decoder.Config) -> str:
  """The published `model_type` whose structure this configuration has. Raises ValueError when none has."""
  have = {k: getattr(config, k) for k in _STRUCTURE} | {'moe': config.moe is not None}
  for name, f in FAMILIES.items():
    if have == {k: f.get(k, False) for k in (*_STRUCTURE, 'moe')}:
      return name
  raise ValueError(f'no published family has the structure {have}')


def config_from(h: dict) -> decoder.Config:
  """The `config.json` of a decoder. Raises CheckpointError on an unknown model_type or a missing key."""
  kind = require(h, 'model_type')
  if kind not in FAMILIES:
    raise CheckpointError(f'config: model_type {kind!r} is unknown; expected one of {sorted(FAMILIES)}')
  f = FAMILIES[kind]
  rope = h.get('rope_parameters') or h.get('rope_scaling') or {}
  heads, width = require(h, 'num_attention_heads'), require(h, 'hidden_size')
  experts = None
  if f.get('moe'):
    clamped = kind == 'gpt_oss'
    experts = moe.Config(
      experts=require(h, 'num_experts', 'num_local_experts'),
      top_k=require(h, 'num_experts_per_tok'),
      width=require(h, 'moe_intermediate_size', 'intermediate_size'),
      activation='clamped' if clamped else 'silu',
      bias=clamped,
      aux_coef=h.get('router_aux_loss_coef', 0.0),
    )
    if not clamped and not h.get('norm_topk_prob', False):
      raise CheckpointError('config: norm_topk_prob is false; only renormalised top-k routing is supported')
  return decoder.Config(
    vocab=require(h, 'vocab_size'),
    width=width,
    depth=require(h, 'num_hidden_layers'),
    heads=heads,
    kv_heads=require(h, 'num_key_value_heads'),
    head_dim=h.get('head_dim') or width // heads,
    mlp_width=require(h, 'intermediate_size'),
    norm_eps=require(h, 'rms_norm_eps'),
    rope_theta=float(rope.get('rope_theta') or require(h, 'rope_theta')),
    yarn=_yarn(rope),
    windows=_windows(h),
    moe=experts,
    tied=bool(h.get('tie_word_embeddings', False)),
    max_length=require(h, 'max_position_embeddings'),
    **{k: f.get(k, False) for k in _STRUCTURE},
  )


def _yarn(rope: dict) -> Yarn | None:
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return None
  if kind != 'yarn':
    raise CheckpointError(f'config: rope_type {kind!r}; expected default or yarn')
  return Yarn(
    factor=rope['factor'],
    original_length=rope['original_max_position_embeddings'],
    beta_fast=rope.get('beta_fast', 32.0),
    beta_slow=rope.get('beta_slow', 1.0),
    truncate=rope.get('truncate', True),
  )


def _windows(h: dict) -> tuple[int | None, ...]:
  kinds = h.get('layer_types')
  if kinds is None:
    return (h['sliding_window'], None) if h['model_type'] == 'gpt_oss' else (None,)
  windows = tuple(h['sliding_window'] if k == 'sliding_attention' else None for k in kinds)
  period = next(
    p for p in range(1, len(windows) + 1) if len(windows) % p == 0 and windows[:p] * (len(windows) // p) == windows
  )
  return windows[:period]


def config_to(c: decoder.Config) -> dict:
  """The `config.json` a published loader expects."""
  kind = family(c)
  rope: dict[str, Any] = {'rope_type': 'default', 'rope_theta': c.rope_theta}
  if c.yarn:
    rope |= {
      'rope_type': 'yarn',
      'factor': c.yarn.factor,
      'beta_fast': c.yarn.beta_fast,
      'beta_slow': c.yarn.beta_slow,
      'truncate': c.yarn.truncate,
      'original_max_position_embeddings': c.yarn.original_length,
    }
  window = next((w for w in c.windows if w is not None), None)
  kinds = ['full_attention' if w is None else 'sliding_attention' for w in c.windows] * (c.depth // len(c.windows))
  h = {
    'model_type': kind,
    'architectures': [FAMILIES[kind]['architecture']],
    'vocab_size': c.vocab,
    'hidden_size': c.width,
    'num_hidden_layers': c.depth,
    'num_attention_heads': c.heads,
    'num_key_value_heads': c.kv_heads,
    'head_dim': c.head_dim,
    'intermediate_size': c.mlp_width,
    'rms_norm_eps': c.norm_eps,
    'rope_theta': c.rope_theta,
    'rope_parameters': rope,
    'sliding_window': window,
    'use_sliding_window': window is not None,
    'layer_types': kinds,
    'hidden_act': 'silu',
    'attention_bias': c.out_bias,
    'tie_word_embeddings': c.tied,
    'max_position_embeddings': c.max_length,
  }
  if c.moe:
    sizes = {'num_experts_per_tok': c.moe.top_k, 'router_aux_loss_coef': c.moe.aux_coef}
    if c.moe.bias:
      sizes |= {'num_local_experts': c.moe.experts, 'intermediate_size': c.moe.width}
    else:
      sizes |= {
        'num_experts': c.moe.experts,
        'moe_intermediate_size': c.moe.width,
        'norm_topk_prob': True,
        'decoder_sparse_step': 1,
        'mlp_only_layers': [],
      }
    h |= sizes
  return h


def names(
  c: decoder.Config, *, body: str = 'model.', head: str = 'lm_head.weight', fused_experts: bool = False
) -> decoder.Params:
  """The tree of names, with the body's tensors under the prefix `body`.

  fused_experts: Qwen3-MoE experts stacked as transformers 5 holds them in memory, not one file tensor each.
  """
  at = f'{body}layers.{{layer}}.'
  attn = at + 'self_attn.'
  out_in = lambda name, heads: From(f'{attn}{name}.weight', f'({heads} h) d -> d {heads} h')
  bias = lambda on, name, heads: From(f'{attn}{name}.bias', f'({heads} h) -> {heads} h') if on else None
  attention = decoder.Attention(
    q=out_in('q_proj', 'n'),
    k=out_in('k_proj', 'n'),
    v=out_in('v_proj', 'n'),
    o=From(f'{attn}o_proj.weight', 'd (n h) -> n h d'),
    q_bias=bias(c.qkv_bias, 'q_proj', 'n'),
    k_bias=bias(c.qkv_bias, 'k_proj', 'n'),
    v_bias=bias(c.qkv_bias, 'v_proj', 'n'),
    o_bias=From(f'{attn}o_proj.bias') if c.out_bias else None,
    q_norm=From(f'{attn}q_norm.weight') if c.qk_norm else None,
    k_norm=From(f'{attn}k_norm.weight') if c.qk_norm else None,
    sinks=From(f'{attn}sinks') if c.sinks else None,
  )
  block = decoder.Block(
    attn_norm=From(f'{at}input_layernorm.weight'),
    attn=attention,
    mlp_norm=From(f'{at}post_attention_layernorm.weight'),
    mlp=_mlp_names(c, f'{at}mlp.', fused_experts),
  )
  return decoder.Params(
    embed=From(f'{body}embed_tokens.weight'),
    blocks=block,
    norm=From(f'{body}norm.weight'),
    head=None if c.tied else From(head, 'v d -> d v'),
  )


def _mlp_names(c: decoder.Config, at: str, fused_experts: bool) -> Any:
  flip = lambda name: From(f'{at}{name}.weight', 'o i -> i o')
  if c.moe is None:
    return decoder.Mlp(gate=flip('gate_proj'), up=flip('up_proj'), down=flip('down_proj'))
  if c.moe.bias:  # GPT-OSS: even columns gate, odd up
    fused = lambda part: From(f'{at}experts.gate_up_proj', 'e d (f part) -> part e d f', part, 2)
    fused_bias = lambda part: From(f'{at}experts.gate_up_proj_bias', 'e (f part) -> part e f', part, 2)
    return moe.Params(
      router=flip('router'),
      gate=fused(0),
      up=fused(1),
      down=From(f'{at}experts.down_proj'),
      router_bias=From(f'{at}router.bias'),
      gate_bias=fused_bias(0),
      up_bias=fused_bias(1),
      down_bias=From(f'{at}experts.down_proj_bias'),
    )
  if fused_experts:
    fused = lambda part: From(f'{at}experts.gate_up_proj', 'e (part f) d -> part e d f', part, 2)
    down = From(f'{at}experts.down_proj', 'e d f -> e f d')
    return moe.Params(router=flip('gate'), gate=fused(0), up=fused(1), down=down)
  expert = lambda name: flip('experts.{expert}.' + name)
  return moe.Params(router=flip('gate'), gate=expert('gate_proj'), up=expert('up_proj'), down=expert('down_proj'))


def load(
  path: str | os.PathLike, *, mesh=None, rules=RULES, dtype=jnp.bfloat16
) -> tuple[decoder.Config, decoder.Params]:
  """(config, params) of a published decoder folder. A stored head is used whatever the tie flag says.

  Raises core.files.weights.CheckpointError naming what is missing, unexpected, misshapen or unreadable.
  """
  path = pathlib.Path(path)
  with weights.naming(str(path / 'config.json')):
    config = config_from(read_json(path / 'config.json'))
  files = weights.Files(path)
  config = dataclasses.replace(config, tied='lm_head.weight' not in files)
  return config, weights.load(files, names(config), decoder.spec(config), mesh=mesh, rules=rules, dtype=dtype)


def save(path: str | os.PathLike, config: decoder.Config, params: decoder.Params) -> None:
  """Writes `config.json` and safetensors as published."""
  weights.save(path, params, names(config), decoder.spec(config))
  pathlib.Path(path, 'config.json').write_text(json.dumps(config_to(config), indent=2, sort_keys=True) + '\n')
