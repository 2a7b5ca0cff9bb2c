"""What a causal language model is made of: its configuration, and every weight by shape and axes.

D width   N heads   K key heads   H head size   F feed-forward   V vocabulary
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import moe as experts
from core.layers import RopeScaling
from core.params import Spec, ones, stacked, zeros
from core.params import init as draw


@dataclasses.dataclass(frozen=True)
class Config:
  """A decoder. `windows` repeats over the layers: None sees everything, n the last n keys."""

  vocab: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  norm_eps: float
  rope_theta: float
  rope_scaling: RopeScaling | None = None
  qkv_bias: bool = False
  out_bias: bool = False
  qk_norm: bool = False  # RMSNorm of each head's q and k before rope
  sinks: bool = False
  windows: tuple[int | None, ...] = (None,)
  moe: experts.Config | None = None
  tied: bool = False  # the head is the embedding table
  embedding: bool = True  # False: a stack fed with hidden states
  final_norm: bool = True  # False: a stack whose hidden states feed another
  max_length: int = 32768

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(f'decoder: heads={self.heads} is not a multiple of kv_heads={self.kv_heads}')
    if self.depth % len(self.windows):
      raise ValueError(f'decoder: depth={self.depth} is not a multiple of the {len(self.windows)} windows')


@struct.dataclass(kw_only=True)
class Attention:
  """Weights of self-attention; None where the family has none."""

  q: Any  # [D, N, H]
  k: Any  # [D, K, H]
  v: Any  # [D, K, H]
  o: Any  # [N, H, D]
  q_bias: Any = None
  k_bias: Any = None
  v_bias: Any = None
  o_bias: Any = None
  q_norm: Any = None  # [H]
  k_norm: Any = None
  sinks: Any = None  # [N]


@struct.dataclass(kw_only=True)
class Mlp:
  """Weights of the gated feed-forward."""

  gate: Any  # [D, F]
  up: Any
  down: Any  # [F, D]


@struct.dataclass(kw_only=True)
class Block:
  """Weights of one layer."""

  attn_norm: Any
  attn: Attention
  mlp_norm: Any
  mlp: Any  # Mlp, or core.moe.Params


@struct.dataclass
class Params:
  """Weights of the decoder."""

  embed: Any  # [V, D]; None without an embedding
  blocks: Any  # Block, leaves stacked on a layer axis; or a tuple of Blocks
  norm: Any  # [D]; None without a final norm
  head: Any = None  # [D, V]; None when tied, to the embedding or to nothing


def _block_spec(c: Config) -> Block:
  d = c.width
  n = c.heads
  k = c.kv_heads
  h = c.head_dim
  bias = lambda on, shape, axes: Spec(shape, axes, zeros) if on else None
  norm = Spec((d,), (None,), ones)
  attn = Attention(
    q=Spec((d, n, h), ('embed', 'heads', None)),
    k=Spec((d, k, h), ('embed', 'kv_heads', None)),
    v=Spec((d, k, h), ('embed', 'kv_heads', None)),
    o=Spec((n, h, d), ('heads', None, 'embed'), inputs=2),
    q_bias=bias(c.qkv_bias, (n, h), ('heads', None)),
    k_bias=bias(c.qkv_bias, (k, h), ('kv_heads', None)),
    v_bias=bias(c.qkv_bias, (k, h), ('kv_heads', None)),
    o_bias=bias(c.out_bias, (d,), (None,)),
    q_norm=Spec((h,), (None,), ones) if c.qk_norm else None,
    k_norm=Spec((h,), (None,), ones) if c.qk_norm else None,
    sinks=bias(c.sinks, (n,), ('heads',)),
  )
  wide = Spec((d, c.mlp_width), ('embed', 'mlp'))
  narrow = Spec((c.mlp_width, d), ('mlp', 'embed'))
  mlp = experts.spec(c.moe, d) if c.moe else Mlp(gate=wide, up=wide, down=narrow)
  return Block(attn_norm=norm, attn=attn, mlp_norm=norm, mlp=mlp)


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  return Params(
    embed=Spec((c.vocab, c.width), ('vocab', 'embed'), inputs=0) if c.embedding else None,
    blocks=stacked(_block_spec(c), c.depth),
    norm=Spec((c.width,), (None,), ones) if c.final_norm else None,
    head=None if c.tied else Spec((c.width, c.vocab), ('embed', 'vocab')),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return draw(key, spec(config), dtype)
