"""From vision tokens to the language model's width: pixel shuffle and a two-layer MLP.

M tiles   P patches   D vision width   W language width
"""

from typing import Any

import jax
from einops import rearrange
from flax import struct

from core.layers import gelu, layer_norm
from core.params import Spec, einsum, ones, zeros

NORM_EPS = 1e-5  # the tower's own norms use 1e-6


@struct.dataclass
class Params:
  """Weights of the projector; b is the side of the square of patches that becomes one token."""

  norm: Any  # [b²D]
  norm_bias: Any
  up: Any  # [b²D, W]
  up_bias: Any
  out: Any  # [W, W]
  out_bias: Any


def spec(vision_width: int, width: int, block: int) -> Params:
  """The projector's weights; `block` is the side of the square of patches that becomes one token."""
  wide = vision_width * block**2
  vector = lambda n, init: Spec((n,), (None,), init)
  return Params(
    norm=vector(wide, ones),
    norm_bias=vector(wide, zeros),
    up=Spec((wide, width), ('vision', 'mlp')),
    up_bias=vector(width, zeros),
    out=Spec((width, width), ('mlp', 'embed')),
    out_bias=vector(width, zeros),
  )


def pixel_shuffle(x: jax.Array, block: int) -> jax.Array:
  """Space to depth ("v2" order): [M, grid², D] to [M, (grid/block)², block²·D], row-major inside a block."""
  side = round(x.shape[1] ** 0.5)
  return rearrange(x, 'm (r y c x) d -> m (r c) (y x d)', r=side // block, y=block, x=block, c=side // block)


def apply(p: Params, x: jax.Array, block: int) -> jax.Array:
  """Image embeddings [M, grid²/block², W] of patch features [M, grid², D] (CLS dropped)."""
  x = layer_norm(pixel_shuffle(x, block), p.norm, p.norm_bias, NORM_EPS)
  x = gelu(einsum('btd,df->btf', x, p.up) + p.up_bias)
  return einsum('btf,fd->btd', x, p.out) + p.out_bias
