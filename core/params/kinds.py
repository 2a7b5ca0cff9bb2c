"""Weights that are more than an array: `Lora`, `Flat`, `kernels.int8.Int8` and `kernels.pieces.Streamed`.

Models multiply through `einsum` and look up rows through `take`; they never ask what kind a weight is.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.params.products import product
from core.params.specs import path_name
from kernels import int8, pieces
from kernels.int8 import Int8
from kernels.pieces import Streamed


@struct.dataclass
class Lora:
  """A weight with a low-rank correction (LoRA, arXiv 2106.09685): base + alpha/rank · a·b.

  a: [stack..., inputs..., rank], b: [stack..., rank, outputs...]. Train the leaves named `a` and `b`. keys: [stack...],
  in a pass that trains (`core.training.lora.with_dropout`): the correction sees its input with `dropout`, a share of
  its values, dropped.
  """

  base: Any
  a: jax.Array
  b: jax.Array
  alpha: float = struct.field(pytree_node=False, default=16.0)
  keys: Any = None
  dropout: float = struct.field(pytree_node=False, default=0.0)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Dropout (arXiv 1207.0580) of x of any shape: a value is 0 with probability `rate`, else scaled up; no key: x."""
  if key is None:
    return x
  kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def stack_axes(w: Lora) -> int:
  """How many leading axes index whole weights: they are counted in both factors."""
  base = jax.eval_shape(dense, w.base)
  return w.a.ndim + w.b.ndim - 2 - base.ndim


@struct.dataclass
class Flat:
  """A weight [inputs, *outputs] as a matrix [Π outputs, inputs], which is how checkpoints hold it.

  XLA for TPU reads projections to heads in this layout: otherwise it copies them before the decode loop, and keeps the
  copy for its duration.
  """

  matrix: Any
  outputs: tuple[int, ...] = struct.field(pytree_node=False)


def fold(params: Any) -> Any:
  """Every weight as a plain array: LoRA corrections added in, int8 values scaled."""
  return jax.tree.map(dense, params, is_leaf=is_weight)


def is_weight(w: Any) -> bool:
  """Whether a node of a tree is one weight that multiplies in its own way."""
  return isinstance(w, (Int8, Streamed, Lora, Flat))


def dense(w: Any) -> jax.Array:
  """The plain array that a weight of any kind is equal to."""
  if isinstance(w, Int8):
    return int8.array(w)
  if isinstance(w, Streamed):
    return pieces.array(w)
  if isinstance(w, Lora):
    return _dense_lora(w)
  if isinstance(w, Flat):
    return w.matrix.T.reshape(-1, *w.outputs)
  return w


def _dense_lora(w: Lora) -> jax.Array:
  base = dense(w.base)
  rank = w.a.shape[-1]
  stack = stack_axes(w)
  a = w.a.reshape(*w.a.shape[:stack], -1, rank)
  b = w.b.reshape(*w.b.shape[:stack], rank, -1)
  correction = w.alpha / rank * (a @ b)
  return base + correction.reshape(base.shape).astype(base.dtype)


def einsum(eqn: str, x: jax.Array, w: Any) -> jax.Array:
  """`jnp.einsum(eqn, x, w)` for a weight `w` of any kind; the letter `z` is reserved for the rank and flat outputs."""
  if isinstance(w, Lora):
    return _einsum_lora(eqn, x, w)
  if isinstance(w, Streamed):
    return pieces.einsum(eqn, x, w)
  if isinstance(w, Int8):
    return int8.einsum(eqn, x, w)
  if isinstance(w, Flat):
    return _einsum_flat(eqn, x, w)
  return product(eqn, x, dense(w))


def _einsum_lora(eqn: str, x: jax.Array, w: Lora) -> jax.Array:
  """The base's product, and the adapter's in two steps: the summed dimensions to the rank, the rank to the others."""
  inputs, out = eqn.split('->')
  x_dims, w_dims = inputs.split(',')
  kept = ''.join(c for c in w_dims if c in out)
  summed = ''.join(c for c in w_dims if c not in out)
  low_dims = ''.join(c for c in out if c not in kept) + 'z'
  seen = dropout(x, w.dropout, w.keys)
  a = w.a.astype(x.dtype)
  b = w.b.astype(x.dtype)
  low = jnp.einsum(f'{x_dims},{summed}z->{low_dims}', seen, a)
  correction = jnp.einsum(f'{low_dims},z{kept}->{out}', low, b)
  rank = w.a.shape[-1]
  return einsum(eqn, x, w.base) + (w.alpha / rank) * correction


def _einsum_flat(eqn: str, x: jax.Array, w: Flat) -> jax.Array:
  """One product with the matrix, whose outputs are then reshaped."""
  inputs, out = eqn.split('->')
  x_dims, w_dims = inputs.split(',')
  summed = w_dims[0]
  outputs = w_dims[1:]
  rows = out.removesuffix(outputs)
  y = jnp.einsum(f'{x_dims},z{summed}->{rows}z', x, w.matrix)
  return y.reshape(*y.shape[:-1], *w.outputs)


def take(table: Any, ids: jax.Array) -> jax.Array:
  """Rows [..., D] of a table [V, D] of any kind."""
  if isinstance(table, Streamed):
    return dense(Streamed(table.values[ids]))
  return table[ids]


def map_weights(fn: Callable, params: Any, pattern: str) -> Any:
  """Replaces each weight whose full name matches `pattern` by `fn(name, weight)`.

  Raises ValueError when the pattern matches nothing.
  """
  hit = []

  def visit(path, w):
    name = path_name(path)
    if not re.fullmatch(pattern, name):
      return w
    hit.append(name)
    return fn(name, w)

  out = jax.tree.map_with_path(visit, params, is_leaf=is_weight)
  if not hit:
    named, _ = jax.tree.flatten_with_path(params, is_leaf=is_weight)
    names = [path_name(path) for path, _ in named]
    raise ValueError(f'no weight matches {pattern!r}; names look like {names[:3]}')
  return out
