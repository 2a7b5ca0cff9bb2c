"""The arithmetic that all forms of the head share: a layer and the final projection, given modulating vectors.

R rows   D width   F feed-forward   C latent
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kernels import int8, pieces
from kernels.head.arguments import Block, Params
from kernels.int8 import Int8
from kernels.pieces import Streamed

FeedForward = Callable[[jax.Array, Block], jax.Array]


def blocks(weights: Params) -> tuple[Block, ...]:
  """The layers one by one. Slicing stacked ones copies them once a call, so decoding on CPU and GPU holds a tuple."""
  stacked = weights.blocks
  if isinstance(stacked, tuple):
    return stacked
  depth = stacked.norm.shape[0]
  takes = map(operator.itemgetter, range(depth))
  return tuple(jax.tree.map(take, stacked) for take in takes)


def normed(u: jax.Array, eps: float) -> jax.Array:
  """RMSNorm without weight, [R, D]; mean square in float32 or wider, rounded back before any scale."""
  dtype = jnp.promote_types(u.dtype, jnp.float32)
  wide = u.astype(dtype)
  mean_square = jnp.mean(wide * wide, -1, keepdims=True)
  scaled = wide * jax.lax.rsqrt(mean_square + eps)
  return scaled.astype(u.dtype)


def feed_forward(m: jax.Array, block: Block) -> jax.Array:
  """(silu(m·gate)·(m·up))·down of m [R, D]."""
  gate = jax.nn.silu(matmul(m, block.gate))
  up = matmul(m, block.up)
  return matmul(gate * up, block.down)


def matmul(x: jax.Array, w: Any) -> jax.Array:
  """x [R, I] times a weight [I, O]: an array, `Streamed` or `Int8`."""
  if isinstance(w, Int8):
    return int8.einsum('ri,io->ro', x, w)
  if isinstance(w, Streamed):
    return pieces.einsum('ri,io->ro', x, w)
  return x @ w


def layer(u: jax.Array, block: Block, vectors: jax.Array, eps: float, feed_forward: FeedForward = feed_forward):
  """u [R, D] after one layer; vectors: its shift, scale and gate, [3, R, D]."""
  shift, scale, gate = vectors
  scaled = normed(u, eps) * block.norm * (1 + scale)
  modulated = scaled + shift
  return u + gate * feed_forward(modulated, block)


def project(u: jax.Array, weights: Params, vectors: jax.Array, eps: float) -> jax.Array:
  """The velocity [R, C] from the last hidden state [R, D]; vectors: the final shift and scale, [2, R, D]."""
  shift, scale = vectors
  modulated = normed(u, eps) * (1 + scale) + shift
  return modulated @ weights.out


def modulate(active: jax.Array, weight: jax.Array) -> jax.Array:
  """Modulating vectors [..., P, R, D] of SiLU'd modulators [..., R, D]; weight [D, P, D]."""
  if not isinstance(weight, Streamed):
    return jnp.einsum('...rd,dpe->...pre', active, weight)
  *leading, width = active.shape
  rows = active.reshape(-1, width)
  vectors = pieces.einsum('rd,dpe->rpe', rows, weight)
  by_row = vectors.reshape(*leading, *weight.shape[1:])
  return jnp.moveaxis(by_row, -2, -3)


def guided(velocity: jax.Array, scale: jax.Array) -> jax.Array:
  """v_negative + scale (v - v_negative) of both branches' velocities [2R, C]; scale: one number, or one a row."""
  positive, negative = jnp.split(velocity, 2)
  scale = jnp.asarray(scale, velocity.dtype)
  per_row = scale.reshape(-1, 1)
  return negative + per_row * (positive - negative)
