"""Sentence encoders of the BERT and RoBERTa kind (arXiv 1810.04805, 1907.11692), from published safetensors folders.

B batch   T time   D width   N heads   H head size   F feed-forward
"""

import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys, attention
from core.files import weights
from core.files.weights import CheckpointError, Files, From, read_json, require
from core.layers import gelu, layer_norm
from core.params import Spec, einsum, ones, stacked, walk, zeros

HEADS = ('cls.', 'lm_head.', 'classifier.')  # what pre-training left beside the encoder
PREFIXES = {'bert': 'bert.', 'roberta': 'roberta.'}


@dataclasses.dataclass(frozen=True)
class Config:
  """An encoder. `first_position` is where positions start: 0 in BERT, one past the padding id in RoBERTa."""

  vocab: int
  width: int
  depth: int
  heads: int
  mlp_width: int
  positions: int
  types: int
  norm_eps: float
  first_position: int
  pooler: bool

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(f'encoder: width={self.width} is not a multiple of heads={self.heads}')

  @property
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads

  @property
  def max_length(self) -> int:
    """The longest text, in tokens."""
    return self.positions - self.first_position


@struct.dataclass
class Norm:
  """Weights of LayerNorm."""

  scale: Any
  bias: Any


@struct.dataclass
class Block:
  """Weights of one layer; norms follow the residual sums."""

  q: Any  # [D, N, H]
  k: Any
  v: Any
  q_bias: Any  # [N, H]
  k_bias: Any
  v_bias: Any
  o: Any  # [N, H, D]
  o_bias: Any
  attn_norm: Norm
  up: Any  # [D, F]
  up_bias: Any
  down: Any  # [F, D]
  down_bias: Any
  mlp_norm: Norm


@struct.dataclass
class Params:
  """Weights of the encoder; the pooler is None where the folder has none."""

  words: Any  # [V, D]
  positions: Any
  types: Any
  norm: Norm
  blocks: Any
  pooler: Any = None  # [D, D]
  pooler_bias: Any = None


def spec(c: Config) -> Params:
  """Every weight, once."""
  d, n, h, f = c.width, c.heads, c.head_dim, c.mlp_width
  bias = lambda *shape: Spec(shape, (None,) * len(shape), zeros)
  norm = Norm(Spec((d,), (None,), ones), bias(d))
  table = lambda rows, axis: Spec((rows, d), (axis, 'embed'), inputs=0)
  into = Spec((d, n, h), ('embed', 'heads', None))
  out = Spec((n, h, d), ('heads', None, 'embed'), inputs=2)
  block = Block(
    into,
    into,
    into,
    bias(n, h),
    bias(n, h),
    bias(n, h),
    out,
    bias(d),
    norm,
    Spec((d, f), ('embed', 'mlp')),
    bias(f),
    Spec((f, d), ('mlp', 'embed')),
    bias(d),
    norm,
  )
  return Params(
    table(c.vocab, 'vocab'),
    table(c.positions, None),
    table(c.types, None),
    norm,
    stacked(block, c.depth),
    Spec((d, d), ('embed', None)) if c.pooler else None,
    bias(d) if c.pooler else None,
  )


def apply(params: Params, config: Config, tokens: jax.Array, mask: jax.Array) -> jax.Array:
  """Hidden states [B, T, D] of int32 tokens [B, T]; mask is true where there is a token, padding comes last."""
  c, dtype = config, params.words.dtype
  at = c.first_position + jnp.arange(tokens.shape[1])
  x = params.words[tokens] + params.positions[at][None] + params.types[0][None, None]
  x = layer_norm(x, params.norm.scale, params.norm.bias, c.norm_eps).astype(dtype)
  # Every query stands after every key, so a key is seen unless it is padding.
  after, there = jnp.full(tokens.shape, 1, jnp.int32), jnp.where(mask, 0, -1).astype(jnp.int32)

  def layer(x, _, p):
    q = einsum('btd,dnh->btnh', x, p.q) + p.q_bias
    k, v = einsum('btd,dnh->bnth', x, p.k), einsum('btd,dnh->bnth', x, p.v)
    keys = Keys(k + p.k_bias[:, None], v + p.v_bias[:, None], there)
    # The kernels read positions as causal order, which there is none of here; texts are short.
    y = attention(q, [keys], positions=after, implementation='reference')
    x = layer_norm(x + einsum('btnh,nhd->btd', y, p.o) + p.o_bias, p.attn_norm.scale, p.attn_norm.bias, c.norm_eps)
    h = gelu(einsum('btd,df->btf', x, p.up) + p.up_bias)
    h = einsum('btf,fd->btd', h, p.down) + p.down_bias
    return layer_norm(x + h, p.mlp_norm.scale, p.mlp_norm.bias, c.norm_eps), None

  return walk(layer, x, params.blocks)[0]


Pooling = Literal['cls', 'pooler', 'mean']


def embed(params: Params, config: Config, tokens: jax.Array, mask: jax.Array, pooling: Pooling) -> jax.Array:
  """One vector a text, [B, D]: the first state, that through the tanh pooler, or the mean over tokens."""
  x = apply(params, config, tokens, mask)
  if pooling == 'mean':
    weight = mask[..., None].astype(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
  if pooling == 'pooler':
    if params.pooler is None:
      raise ValueError("pooling='pooler': this encoder has no pooler; expected 'cls' or 'mean'")
    return jnp.tanh(einsum('bd,de->be', x[:, 0], params.pooler) + params.pooler_bias)
  return x[:, 0]


def names(config: Config, prefix: str = '') -> Params:
  """The tree of tensor names."""
  at = prefix + 'encoder.layer.{layer}.'
  norm = lambda name: Norm(From(f'{name}.weight'), From(f'{name}.bias'))
  flip = lambda name: From(f'{name}.weight', 'o i -> i o')
  head = lambda name: From(f'{at}attention.self.{name}.weight', '(n h) d -> d n h')
  head_bias = lambda name: From(f'{at}attention.self.{name}.bias', '(n h) -> n h')
  out = f'{at}attention.output'
  block = Block(
    *map(head, ('query', 'key', 'value')),
    *map(head_bias, ('query', 'key', 'value')),
    From(f'{out}.dense.weight', 'd (n h) -> n h d'),
    From(f'{out}.dense.bias'),
    norm(f'{out}.LayerNorm'),
    flip(f'{at}intermediate.dense'),
    From(f'{at}intermediate.dense.bias'),
    flip(f'{at}output.dense'),
    From(f'{at}output.dense.bias'),
    norm(f'{at}output.LayerNorm'),
  )
  tables = (From(f'{prefix}embeddings.{name}_embeddings.weight') for name in ('word', 'position', 'token_type'))
  pooler = (flip(f'{prefix}pooler.dense'), From(f'{prefix}pooler.dense.bias')) if config.pooler else ()
  return Params(*tables, norm(f'{prefix}embeddings.LayerNorm'), block, *pooler)


def config_from(h: dict, *, pooler: bool) -> Config:
  """A `config.json`. Raises CheckpointError naming the key at fault."""
  kind = require(h, 'model_type')
  if kind not in PREFIXES:
    raise CheckpointError(f'config: model_type {kind!r}; expected one of {sorted(PREFIXES)}')
  for key, value in (('hidden_act', 'gelu'), ('position_embedding_type', 'absolute')):
    if (h.get(key) or value) != value:
      raise CheckpointError(f'config: {key}={h[key]!r}; only {value!r} is supported')
  with weights.naming('config'):
    return Config(
      vocab=require(h, 'vocab_size'),
      width=require(h, 'hidden_size'),
      depth=require(h, 'num_hidden_layers'),
      heads=require(h, 'num_attention_heads'),
      mlp_width=require(h, 'intermediate_size'),
      positions=require(h, 'max_position_embeddings'),
      types=require(h, 'type_vocab_size'),
      norm_eps=require(h, 'layer_norm_eps'),
      first_position=require(h, 'pad_token_id') + 1 if kind == 'roberta' else 0,
      pooler=pooler,
    )


def config_to(c: Config) -> dict:
  """The `config.json` that a published loader expects."""
  kind = 'roberta' if c.first_position else 'bert'
  return {
    'model_type': kind,
    'architectures': ['RobertaModel' if c.first_position else 'BertModel'],
    'vocab_size': c.vocab,
    'hidden_size': c.width,
    'num_hidden_layers': c.depth,
    'num_attention_heads': c.heads,
    'intermediate_size': c.mlp_width,
    'max_position_embeddings': c.positions,
    'type_vocab_size': c.types,
    'layer_norm_eps': c.norm_eps,
    'pad_token_id': max(c.first_position - 1, 0),
    'hidden_act': 'gelu',
  }


def load(path: str | os.PathLike, *, dtype=jnp.float32) -> tuple[Config, Params]:
  """(config, params) of a published folder; heads of pre-training and stored position ids are passed over.

  Raises core.files.weights.CheckpointError naming what is missing, unexpected or misshapen.
  """
  path = pathlib.Path(path)
  h, files = read_json(path / 'config.json'), Files(path)
  for name in [n for n in files.where if n.startswith(HEADS) or n.endswith('embeddings.position_ids')]:
    del files.where[name]
  prefix = PREFIXES.get(h.get('model_type'), '')
  prefix = prefix if any(name.startswith(prefix) for name in files.where) else ''
  config = config_from(h, pooler=f'{prefix}pooler.dense.weight' in files)
  return config, weights.load(files, names(config, prefix), spec(config), dtype=dtype)


def save(path: str | os.PathLike, config: Config, params: Params) -> None:
  """Writes safetensors and `config.json` under the names that the published models use."""
  weights.save(path, params, names(config), spec(config))
  pathlib.Path(path, 'config.json').write_text(json.dumps(config_to(config), indent=2, sort_keys=True) + '\n')
