"""CLIP's text tower (arXiv 2103.00020): OpenAI's L and OpenCLIP's bigG.

B batch   T time   D width
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import encoder
from core.mesh import RULES
from core.params import Spec, einsum
from core.params import init as draw
from core.tap import Keep

LEGACY_EOS = 2  # configs of the first export say so, and mean the token with the greatest id


@dataclasses.dataclass(frozen=True)
class Config:
  """projection: width of the projected vector, None where there is none. eos: id of the end of a text."""

  width: int
  depth: int
  heads: int
  hidden: int
  projection: int | None = None
  vocab: int = 49_408
  length: int = 77
  activation: str = 'quick_gelu'
  eos: int = LEGACY_EOS
  eps: float = 1e-5

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(f'clip: width={self.width} is not a multiple of heads={self.heads}')

  @property
  def blocks(self) -> encoder.Config:
    """The tower's blocks."""
    return encoder.Config(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      head_dim=self.width // self.heads,
      mlp_width=self.hidden,
      norm='layer',
      norm_place='pre',
      norm_eps=self.eps,
      activation=self.activation,
      causal=True,
    )


CONFIGS = {
  'L': Config(width=768, depth=12, heads=12, hidden=3072),
  'bigG': Config(width=1280, depth=32, heads=20, hidden=5120, projection=1280, activation='gelu'),
  'tiny': Config(width=16, depth=2, heads=2, hidden=32, vocab=300, length=12, eos=257),
}
CONFIGS['L-projected'] = dataclasses.replace(CONFIGS['L'], projection=768)


@struct.dataclass(kw_only=True)
class Params:
  """Weights of the tower."""

  tokens: Any  # [V, D]
  positions: Any  # [length, D]
  blocks: Any
  norm: encoder.Norm
  projection: Any = None  # [D, P]


@struct.dataclass
class Output:
  """penultimate: states [B, T, D] before the last block, without a norm, which SD3 reads. pooled: [B, P or D]."""

  penultimate: jax.Array
  pooled: jax.Array


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  return Params(
    tokens=Spec((c.vocab, c.width), ('vocab', 'embed'), inputs=0),
    positions=Spec((c.length, c.width), (None, 'embed'), inputs=0),
    blocks=encoder.spec(c.blocks),
    norm=encoder.norm_spec(c.width, 'layer'),
    projection=None if c.projection is None else Spec((c.width, c.projection), ('embed', None)),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random weights."""
  return draw(key, spec(config), dtype)


def end_of_text(tokens: jax.Array, eos: int) -> jax.Array:
  """The position [B] of the end in tokens [B, T]: of the first `eos`, or of the greatest id by the older convention."""
  if eos == LEGACY_EOS:
    return jnp.argmax(tokens, 1)
  return jnp.argmax(tokens == eos, 1)


def apply(params: Params, config: Config, tokens: jax.Array, *, rules=RULES) -> Output:
  """States and pooled vector of int32 tokens [B, T], padded to any T up to `length`; padding is not masked.

  pooled is the state at the end of the text after the final norm, projected if the model has a projection.
  Raises ValueError for more tokens than positions.
  """
  c = config
  time = tokens.shape[1]
  if time > c.length:
    raise ValueError(f'clip: {time} tokens; expected at most {c.length}')
  x = params.tokens[tokens] + params.positions[:time]
  penultimate = Keep('resid_in', layers=(c.depth - 1,))
  x, kept = encoder.apply(params.blocks, c.blocks, x, keep=(penultimate,), rules=rules)
  final = encoder.normalise(x, params.norm, c.eps)
  end = end_of_text(tokens, c.eos)
  pooled = jnp.take_along_axis(final, end[:, None, None], 1)[:, 0]
  if params.projection is not None:
    pooled = einsum('bd,dp->bp', pooled, params.projection)
  return Output(penultimate=kept['resid_in'][0], pooled=pooled)
