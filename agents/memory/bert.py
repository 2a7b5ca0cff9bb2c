"""Sentence encoders of the BERT and RoBERTa kind (arXiv 1810.04805, 1907.11692), from published safetensors folders.

B batch   T time   D width
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from core import encoder
from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.params import Spec, einsum, zeros

HEADS = ('cls.', 'lm_head.', 'classifier.')  # heads of pre-training in the same files
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
  def blocks(self) -> encoder.Config:
    """The encoder's blocks."""
    return encoder.Config(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      head_dim=self.width // self.heads,
      mlp_width=self.mlp_width,
      norm='layer',
      norm_place='post',
      norm_eps=self.norm_eps,
    )

  @property
  def max_length(self) -> int:
    """The longest text, in tokens."""
    return self.positions - self.first_position


@struct.dataclass
class Params:
  """Weights of the encoder; the pooler is None where the folder has none."""

  words: Any  # [V, D]
  positions: Any
  types: Any
  norm: encoder.Norm
  blocks: encoder.Block
  pooler: Any = None  # [D, D]
  pooler_bias: Any = None


def spec(c: Config) -> Params:
  """Every weight, once."""
  d = c.width
  table = lambda rows, axis: Spec((rows, d), (axis, 'embed'), inputs=0)
  return Params(
    words=table(c.vocab, 'vocab'),
    positions=table(c.positions, None),
    types=table(c.types, None),
    norm=encoder.norm_spec(d, 'layer'),
    blocks=encoder.spec(c.blocks),
    pooler=Spec((d, d), ('embed', None)) if c.pooler else None,
    pooler_bias=Spec((d,), (None,), zeros) if c.pooler else None,
  )


def apply(params: Params, config: Config, tokens: jax.Array, mask: jax.Array) -> jax.Array:
  """Hidden states [B, T, D] of int32 tokens [B, T]; mask is true where there is a token, padding comes last."""
  at = config.first_position + jnp.arange(tokens.shape[1])
  positions = params.positions[at][None]
  kind = params.types[0][None, None]
  x = params.words[tokens] + positions + kind
  x = encoder.normalise(x, params.norm, config.norm_eps).astype(params.words.dtype)
  return encoder.apply(params.blocks, config.blocks, x, mask=mask)[0]


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
  norm = lambda name: encoder.Norm(scale=From(f'{name}.weight'), bias=From(f'{name}.bias'))
  flip = lambda name: From(f'{name}.weight', 'o i -> i o')
  head = lambda name: From(f'{at}attention.self.{name}.weight', '(n h) d -> d n h')
  head_bias = lambda name: From(f'{at}attention.self.{name}.bias', '(n h) -> n h')
  table = lambda name: From(f'{prefix}embeddings.{name}_embeddings.weight')
  out = f'{at}attention.output'
  attn = encoder.Attention(
    q=head('query'),
    k=head('key'),
    v=head('value'),
    o=From(f'{out}.dense.weight', 'd (n h) -> n h d'),
    q_bias=head_bias('query'),
    k_bias=head_bias('key'),
    v_bias=head_bias('value'),
    o_bias=From(f'{out}.dense.bias'),
  )
  block = encoder.Block(
    attn_norm=norm(f'{out}.LayerNorm'),
    attn=attn,
    mlp_norm=norm(f'{at}output.LayerNorm'),
    up=flip(f'{at}intermediate.dense'),
    up_bias=From(f'{at}intermediate.dense.bias'),
    down=flip(f'{at}output.dense'),
    down_bias=From(f'{at}output.dense.bias'),
  )
  return Params(
    words=table('word'),
    positions=table('position'),
    types=table('token_type'),
    norm=norm(f'{prefix}embeddings.LayerNorm'),
    blocks=block,
    pooler=flip(f'{prefix}pooler.dense') if config.pooler else None,
    pooler_bias=From(f'{prefix}pooler.dense.bias') if config.pooler else None,
  )


KEYS = Keys(
  read=(
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'intermediate_size',
    'max_position_embeddings',
    'type_vocab_size',
    'layer_norm_eps',
  ),
  fixed={'hidden_act': ('gelu',), 'position_embedding_type': ('absolute',)},
  # Dropout, and heads of pre-training: no encoder of text reads either.
  ignored=(
    'attention_probs_dropout_prob',
    'classifier_dropout',
    'directionality',
    'hidden_dropout_prob',
    'output_past',
    'pooler_fc_size',
    'pooler_num_attention_heads',
    'pooler_num_fc_layers',
    'pooler_size_per_head',
    'pooler_type',
    'tie_word_embeddings',
  ),
)


def config_from(h: dict, *, pooler: bool) -> Config:
  """A `config.json`. Raises CheckpointError naming the key at fault."""
  with naming('config'):
    kind = require(h, 'model_type')
    if kind not in PREFIXES:
      raise CheckpointError(f'model_type {kind!r}; expected one of {sorted(PREFIXES)}')
    check(h, KEYS)
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


def load(path: FolderPath, *, dtype=jnp.float32) -> tuple[Config, Params]:
  """(config, params) of a published folder; heads of pre-training and stored position ids are ignored.

  Raises core.files.config.CheckpointError naming what is missing, unexpected or misshapen.
  """
  folder = store.folder(path)
  h = read_json(folder, 'config.json')
  files = Files(folder)
  for name in [n for n in files.tensors if n.startswith(HEADS) or n.endswith('embeddings.position_ids')]:
    del files.tensors[name]
  prefix = PREFIXES.get(h.get('model_type'), '')
  prefix = prefix if any(name.startswith(prefix) for name in files.tensors) else ''
  config = config_from(h, pooler=f'{prefix}pooler.dense.weight' in files)
  return config, weights.load(files, names(config, prefix), spec(config), dtype=dtype)


def save(path: FolderPath, config: Config, params: Params) -> None:
  """Writes safetensors and `config.json` under the names that the published models use."""
  weights.save(path, params, names(config), spec(config))
  weights.save_config(path, config_to(config))
