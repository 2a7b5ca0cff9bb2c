"""Weights in 8 bits, and products with them."""

import math

import jax
import jax.numpy as jnp
from flax import struct

from kernels import pieces

GROUP = 128  # weights that share a scale


@struct.dataclass
class Int8:
  """A weight in 8 bits: `values * scale`, one scale per group of `GROUP` (or fewer) along the last axis.

  Rounding error is at most half a scale, i.e. |w - dense(w)| <= max|w in its group| / 254.
  """

  values: jax.Array  # int8, the weight's shape
  scale: jax.Array  # float, [..., last / group]


def to_int8(w: jax.Array) -> Int8:
  """Quantises a weight [..., n] symmetrically in groups along its last axis."""
  group = math.gcd(w.shape[-1], GROUP)
  grouped = w.reshape(*w.shape[:-1], -1, group).astype(jnp.float32)
  largest = jnp.abs(grouped).max(-1)
  scale = jnp.maximum(largest, jnp.finfo(jnp.float32).tiny) / 127
  values = jnp.round(grouped / scale[..., None]).astype(jnp.int8)
  return Int8(values.reshape(w.shape), scale.astype(w.dtype))


def array(w: Int8) -> jax.Array:
  """The weight in the dtype of its scale."""
  *outer, groups = w.scale.shape
  grouped = w.values.reshape(*outer, groups, -1)
  scaled = grouped.astype(w.scale.dtype) * w.scale[..., None]
  return scaled.reshape(w.values.shape)


def einsum(eqn: str, x: jax.Array, w: Int8) -> jax.Array:
  """`jnp.einsum(eqn, x, w)`, on a CPU piece by piece, so that no whole copy is kept."""
  return pieces.cut_einsum(eqn, x, w, shape=w.values.shape, narrow=True, array=array, float32=_float32)


def _float32(w: Int8) -> jax.Array:
  return array(w.replace(scale=w.scale.astype(jnp.float32)))
