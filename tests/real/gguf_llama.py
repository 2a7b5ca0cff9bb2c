"""Reads Llama weights in GGUF, with a numpy forward pass; independent of `core.files.formats.gguf` and the decoder."""

import pathlib

import numpy as np

from core import decoder

NAMES = {
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
}
TOP = {'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight'}


def read(path: pathlib.Path):
  """(config, tensors) of a GGUF file: the decoder's configuration, float32 arrays by published name."""
  import gguf

  reader = gguf.GGUFReader(path)
  fields = {name: field.contents() for name, field in reader.fields.items()}
  config = config_of(fields)
  tensors = {}
  for tensor in reader.tensors:
    array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    tensors[published_name(tensor.name)] = array
  for name in tensors:
    if name.endswith(('q_proj.weight', 'k_proj.weight')):
      tensors[name] = half_split(tensors[name], config.head_dim)
  return config, tensors


def config_of(fields: dict) -> decoder.Config:
  """A llama without biases is the decoder with none of its families' extras."""
  heads = fields['llama.attention.head_count']
  return decoder.Config(
    vocab=len(fields['tokenizer.ggml.tokens']),
    width=fields['llama.embedding_length'],
    depth=fields['llama.block_count'],
    heads=heads,
    kv_heads=fields['llama.attention.head_count_kv'],
    head_dim=fields['llama.embedding_length'] // heads,
    mlp_width=fields['llama.feed_forward_length'],
    norm_eps=fields['llama.attention.layer_norm_rms_epsilon'],
    rope_theta=fields['llama.rope.freq_base'],
    tied=True,
    max_length=fields['llama.context_length'],
  )


def published_name(name: str) -> str:
  """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
  if name in TOP:
    return TOP[name]
  _, layer, kind, _ = name.split('.')
  return f'model.layers.{layer}.{NAMES[kind]}.weight'


def half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
  """Rows [heads · head_dim, in] from adjacent-pair rotary order (GGUF) to half-split order."""
  pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def numpy_logits(config: decoder.Config, tensors: dict, tokens: list[int]) -> np.ndarray:
  """float32 logits [time, vocab] of a plain forward pass."""
  x = tensors['model.embed_tokens.weight'][tokens]
  cos, sin = _rope(len(tokens), config)
  for layer in range(config.depth):
    w = lambda name, layer=layer: tensors[f'model.layers.{layer}.{name}.weight']
    h = _rms(x, w('input_layernorm'), config.norm_eps)
    x = x + _attention(h, w, config, cos, sin) @ w('self_attn.o_proj').T
    h = _rms(x, w('post_attention_layernorm'), config.norm_eps)
    gate = h @ w('mlp.gate_proj').T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w('mlp.up_proj').T)) @ w('mlp.down_proj').T
  return _rms(x, tensors['model.norm.weight'], config.norm_eps) @ tensors['model.embed_tokens.weight'].T


def _rms(x, weight, eps):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _rope(length: int, config: decoder.Config):
  frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
  angle = np.arange(length)[:, None] * frequency
  angle = np.concatenate([angle, angle], -1)
  return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _rotated(x, cos, sin):
  low, high = np.split(x, 2, -1)
  return x * cos + np.concatenate([-high, low], -1) * sin


def _attention(h, w, config, cos, sin):
  heads = lambda name: (h @ w(f'self_attn.{name}').T).reshape(len(h), -1, config.head_dim).swapaxes(0, 1)
  q = _rotated(heads('q_proj'), cos, sin)
  k = _rotated(heads('k_proj'), cos, sin)
  v = heads('v_proj')
  share = config.heads // config.kv_heads
  k, v = np.repeat(k, share, 0), np.repeat(v, share, 0)
  scores = q @ k.swapaxes(1, 2) / np.sqrt(config.head_dim)
  scores = np.where(np.tri(len(h), dtype=bool), scores, -np.inf)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  mixed = p / p.sum(-1, keepdims=True) @ v
  return mixed.swapaxes(0, 1).reshape(len(h), -1)
