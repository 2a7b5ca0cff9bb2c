"""The encoder of T5 1.1 (arXiv 1910.10683, 2002.05202).

B batch   T time   D width   N heads
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import encoder
from core.mesh import RULES
from core.params import Spec
from core.params import init as draw


@dataclasses.dataclass(frozen=True)
class Config:
  """buckets, distance: of the relative positions; farther tokens share the last bucket."""

  width: int
  depth: int
  heads: int
  head_dim: int
  hidden: int
  vocab: int = 32_128
  buckets: int = 32
  distance: int = 128
  eps: float = 1e-6

  def __post_init__(self):
    if self.buckets < 4 or self.buckets % 4 or self.distance <= self.buckets // 4:
      raise ValueError(
        f't5: buckets={self.buckets}, distance={self.distance}; expected a multiple of 4, and more than a quarter of it'
      )

  @property
  def blocks(self) -> encoder.Config:
    """The encoder's blocks: no biases, and scores are not scaled."""
    return encoder.Config(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      head_dim=self.head_dim,
      mlp_width=self.hidden,
      norm='rms',
      norm_place='pre',
      norm_eps=self.eps,
      activation='tanh_gelu',
      gated=True,
      biases=(),
      scale=1.0,
    )


CONFIGS = {
  'XXL': Config(width=4096, depth=24, heads=64, head_dim=64, hidden=10_240),
  'tiny': Config(width=16, depth=2, heads=2, head_dim=6, hidden=24, vocab=300),
}


@struct.dataclass(kw_only=True)
class Params:
  """Weights of the encoder. bias: added to the scores of all blocks, by bucket."""

  tokens: Any  # [V, D]
  bias: Any  # [buckets, N]
  blocks: Any
  norm: encoder.Norm


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  return Params(
    tokens=Spec((c.vocab, c.width), ('vocab', 'embed'), inputs=0),
    bias=Spec((c.buckets, c.heads), (None, 'heads'), inputs=0),
    blocks=encoder.spec(c.blocks),
    norm=encoder.norm_spec(c.width, 'rms'),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random weights."""
  return draw(key, spec(config), dtype)


def buckets_of(offsets: np.ndarray, buckets: int, distance: int) -> np.ndarray:
  """The bucket of each offset, key's position minus query's: half of the buckets for either sign.

  Small offsets have buckets of their own; larger ones, up to `distance`, share them logarithmically.
  """
  half = buckets // 2
  exact = half // 2
  size = np.abs(offsets)
  # float32, as published: rounding decides at the edges of the buckets.
  ratio = np.log(np.maximum(size, exact).astype(np.float32) / np.float32(exact))
  step = ratio / np.float32(math.log(distance / exact)) * np.float32(half - exact)
  shared = np.minimum(exact + step.astype(np.int64), half - 1)
  return np.where(offsets > 0, half, 0) + np.where(size < exact, size, shared)


def apply(params: Params, config: Config, tokens: jax.Array, *, rules=RULES) -> jax.Array:
  """States [B, T, D] of int32 tokens [B, T]. Padding is not masked: image models were trained so."""
  c = config
  at = np.arange(tokens.shape[1])
  distance = at[None] - at[:, None]
  bucket = buckets_of(distance, c.buckets, c.distance)
  table = params.bias[bucket]
  bias = jnp.moveaxis(table, 2, 0)[None]
  x, _ = encoder.apply(params.blocks, c.blocks, params.tokens[tokens], bias=bias, rules=rules)
  return encoder.normalise(x, params.norm, c.eps)
