"""Connectors: from a frame's vector to an embedding of the language model. Two projections with a norm between.

F frames   C width of the frame's vector   D width of the language model
"""

from typing import Any

import jax
from flax import struct

from core.layers import rms_norm
from core.params import Spec, einsum, ones, zeros

NORM_EPS = 1e-6  # the tokenizers and the head use 1e-5


@struct.dataclass(kw_only=True)
class Params:
  """Weights of one connector."""

  up: Any  # [C, D]
  up_bias: Any
  norm: Any  # [D]
  out: Any  # [D, D]
  out_bias: Any


def spec(latent: int, width: int) -> Params:
  """Every weight, once."""
  vector = Spec((width,), (None,), zeros)
  return Params(
    up=Spec((latent, width), (None, 'embed')),
    up_bias=vector,
    norm=Spec((width,), (None,), ones),
    out=Spec((width, width), ('mlp', 'embed')),
    out_bias=vector,
  )


def apply(p: Params, x: jax.Array) -> jax.Array:
  """Embeddings [B, F, D] of vectors [B, F, C], in the dtype of the weights. There is no activation."""
  hidden = einsum('btc,cd->btd', x.astype(p.norm.dtype), p.up) + p.up_bias
  hidden = rms_norm(hidden, p.norm, NORM_EPS)
  return einsum('btd,de->bte', hidden, p.out) + p.out_bias
