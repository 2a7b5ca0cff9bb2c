"""The compact projector of InternVL3.5-Flash (`mlp2`): a quarter of the image tokens, from larger squares of patches.

M tiles   P patches   D vision width   W language width
"""

from typing import Any

import jax
from flax import struct

from core.layers import gelu, layer_norm
from core.params import Spec, dropout, einsum, ones, zeros
from internvl.projector import NORM_EPS, pixel_shuffle

DROPOUT = 0.1  # in training, after each activation


@struct.dataclass
class Params:
  """Weights of the compact projector; b is the side of the square of patches that becomes one token."""

  norm: Any  # [b²D]
  norm_bias: Any
  up: Any  # [b²D, 2W]
  up_bias: Any
  mid: Any  # [2W, 2W]
  mid_bias: Any
  out: Any  # [2W, W]
  out_bias: Any


def spec(vision_width: int, width: int, block: int) -> Params:
  """Every weight, once; `block` is the side of the square of patches that becomes one token."""
  wide = vision_width * block**2
  hidden = 2 * width
  return Params(
    norm=Spec((wide,), (None,), ones),
    norm_bias=Spec((wide,), (None,), zeros),
    up=Spec((wide, hidden), ('vision', 'mlp')),
    up_bias=Spec((hidden,), (None,), zeros),
    mid=Spec((hidden, hidden), ('mlp', 'embed')),
    mid_bias=Spec((hidden,), (None,), zeros),
    out=Spec((hidden, width), ('mlp', 'embed')),
    out_bias=Spec((width,), (None,), zeros),
  )


def apply(p: Params, x: jax.Array, block: int, *, key: jax.Array | None = None) -> jax.Array:
  """Image embeddings [M, grid²/block², W] of patch features [M, grid², D] (CLS dropped).

  key: a jax.random key switches dropout on (training).
  """
  first, second = (None, None) if key is None else jax.random.split(key)
  x = layer_norm(pixel_shuffle(x, block), p.norm, p.norm_bias, NORM_EPS)
  x = dropout(gelu(einsum('btd,df->btf', x, p.up) + p.up_bias), DROPOUT, first)
  x = dropout(gelu(einsum('btd,df->btf', x, p.mid) + p.mid_bias), DROPOUT, second)
  return einsum('btf,fd->btd', x, p.out) + p.out_bias
