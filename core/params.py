"""Weights as data: one `Spec` a weight, and the short maps over a tree of them.

A model's parameters are a tree of `flax.struct` dataclasses. `spec(config)` of a model returns the same tree
with a `Spec` at each leaf; initial values, abstract shapes, counts, shardings (`core.mesh`) and the checkpoint
loader (`core.files.weights`) are maps over it, so they cannot drift apart.

A leaf may also be an `Int8`, `Streamed`, `Lora` or `Flat` weight: models multiply through `einsum` and never ask.
"""

import dataclasses
import functools
import math
import operator
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from kernels import pieces
from kernels.pieces import Streamed

STACK_AXES = ('layers', 'experts')  # leading axes that index whole weights


def ones(key, shape, dtype):
  """Initialiser: ones (norm scales)."""
  return jnp.ones(shape, dtype)


def zeros(key, shape, dtype):
  """Initialiser: zeros (biases)."""
  return jnp.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Spec:
  """One weight: what it is, not what it holds.

  `axes` names each dimension by meaning; `core.mesh` maps names to mesh axes. After any stack axes
  (`layers`, `experts`) the first `inputs` dimensions are those summed over when the weight multiplies; a table that is
  looked up has 0. Without an `init` of its own a weight is drawn from a normal of standard deviation 1/√(inputs).
  constant: checkpoints store it and nothing trains it; a model stops its gradient, and weight decay leaves it out.
  """

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: Callable | None = None
  inputs: int = 1
  constant: bool = False

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'Spec: shape {self.shape} and axes {self.axes} differ in rank')

  @property
  def stack(self) -> int:
    """How many leading dimensions index whole weights."""
    for i, axis in enumerate(self.axes):
      if axis not in STACK_AXES:
        return i
    return len(self.axes)

  @property
  def fan_in(self) -> int:
    """How many products each output sums; of a table, the width of a row: the head that is tied to it sums those."""
    if not self.inputs:
      return self.shape[-1]
    first = self.stack
    return math.prod(self.shape[first : first + self.inputs])


def stacked(spec: Any, depth: int) -> Any:
  """The spec of `depth` equal blocks, stacked on a leading `layers` axis."""

  def grow(s: Spec) -> Spec:
    return dataclasses.replace(s, shape=(depth, *s.shape), axes=('layers', *s.axes))

  return jax.tree.map(grow, spec)


def path_name(path: Sequence) -> str:
  """`blocks.attn.q` for a tree path; positions in tuples are left out, so stacked and unstacked names agree."""
  keys = (getattr(k, 'name', getattr(k, 'key', None)) for k in path)
  return '.'.join(str(k) for k in keys if k is not None)


def init(key: jax.Array, spec: Any, dtype=jnp.float32) -> Any:
  """Draws every weight. A weight's key depends on its own name only, so adding one changes no other."""

  def draw(key, path, s):
    weight_key = named_key(key, path_name(path))
    if s.init is not None:
      return s.init(weight_key, s.shape, dtype)
    values = jax.random.normal(weight_key, s.shape) / math.sqrt(s.fan_in)
    return values.astype(dtype)

  # The key is an argument: draws from a constant one would be folded by the compiler, slowly.
  @jax.jit
  def draw_all(key):
    return jax.tree.map_with_path(functools.partial(draw, key), spec)

  return draw_all(key)


def named_key(key: jax.Array, name: str) -> jax.Array:
  """The key of a weight, from its name alone."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def abstract(spec: Any, dtype=jnp.float32) -> Any:
  """The tree as `jax.ShapeDtypeStruct`s: shapes without memory."""
  return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), spec)


def count(spec: Any) -> int:
  """Number of parameters."""
  return sum(math.prod(s.shape) for s in jax.tree.leaves(spec))


def cast(params: Any, dtype) -> Any:
  """Floating-point leaves in `dtype`; integers (Int8 values) stay."""

  def cast_leaf(w):
    if not jnp.issubdtype(w.dtype, jnp.floating):
      return w
    return w.astype(dtype)

  return jax.tree.map(cast_leaf, params)


def unstack(blocks: Any) -> tuple:
  """Stacked blocks as a tuple of blocks: static weights, faster to decode with on CPU and GPU."""
  depth = jax.tree.leaves(blocks)[0].shape[0]
  return tuple(jax.tree.map(operator.itemgetter(i), blocks) for i in range(depth))


def walk(layer: Callable, x: Any, blocks: Any, *per_layer: Any) -> tuple[Any, Any]:
  """Runs `layer(x, i, block, *per_layer_i) -> (x, out)` over all blocks, scanned or unrolled.

  Stacked `blocks` (a leading layer axis on each leaf) are scanned: `i` is traced and each leaf of `out` comes back
  stacked. A tuple of blocks is unrolled: `i` is an int and each leaf of `out` a tuple. `per_layer` is stacked, or
  tuples, as `blocks` is.
  """
  if isinstance(blocks, tuple):
    outs = []
    for i, (block, *rest) in enumerate(zip(blocks, *per_layer)):
      x, out = layer(x, i, block, *rest)
      outs.append(out)
    return x, jax.tree.map(lambda *leaves: leaves, *outs)
  depth = jax.tree.leaves(blocks)[0].shape[0]
  inputs = (jnp.arange(depth), blocks, *per_layer)
  return jax.lax.scan(lambda x, xs: layer(x, *xs), x, inputs)


def stack(leaf: Any) -> jax.Array:
  """One leaf of what `walk` returned as an array with a leading layer axis."""
  if isinstance(leaf, tuple):
    return jnp.stack(leaf)
  return leaf


# Weights that multiply in their own way.


@struct.dataclass
class Int8:
  """A weight in 8 bits: `values * scale`, one scale per group of `GROUP` (or fewer) along the last axis.

  Rounding error is at most half a scale, i.e. |w - dense(w)| <= max|w in its group| / 254.
  """

  values: jax.Array  # int8, the weight's shape
  scale: jax.Array  # float, [..., last / group]


GROUP = 128


def to_int8(w: jax.Array) -> Int8:
  """Quantises a weight [..., n] symmetrically in groups along its last axis."""
  group = math.gcd(w.shape[-1], GROUP)
  grouped = w.reshape(*w.shape[:-1], -1, group).astype(jnp.float32)
  largest = jnp.abs(grouped).max(-1)
  scale = jnp.maximum(largest, jnp.finfo(jnp.float32).tiny) / 127
  values = jnp.round(grouped / scale[..., None]).astype(jnp.int8)
  return Int8(values.reshape(w.shape), scale.astype(w.dtype))


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
  """Dropout (arXiv 1207.0580): each value is 0 with probability `rate`, the others are scaled up; no key: x itself."""
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


def fold_for_kernels(params: Any) -> Any:
  """As `fold`, but what kernels read as it is stays."""
  return jax.tree.map(lambda w: w if isinstance(w, Streamed) else dense(w), params, is_leaf=is_weight)


def is_weight(w: Any) -> bool:
  """Whether a node of a tree is one weight that multiplies in its own way."""
  return isinstance(w, (Int8, Streamed, Lora, Flat))


def dense(w: Any) -> jax.Array:
  """The plain array that a weight of any kind is equal to."""
  if isinstance(w, Int8):
    return _dense_int8(w)
  if isinstance(w, Streamed):
    return pieces.array(w)
  if isinstance(w, Lora):
    return _dense_lora(w)
  if isinstance(w, Flat):
    return w.matrix.T.reshape(-1, *w.outputs)
  return w


def _dense_int8(w: Int8) -> jax.Array:
  shape = w.values.shape
  groups = w.scale.shape[-1]
  grouped = w.values.reshape(*shape[:-1], groups, -1)
  scaled = grouped.astype(w.scale.dtype) * w.scale[..., None]
  return scaled.reshape(shape)


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
    return pieces.cut_einsum(eqn, x, w, shape=w.values.shape, narrow=True, array=dense, float32=_in_float32)
  if isinstance(w, Flat):
    return _einsum_flat(eqn, x, w)
  return jnp.einsum(eqn, x, dense(w))


def _einsum_lora(eqn: str, x: jax.Array, w: Lora) -> jax.Array:
  """The base's product, and the adapter's in two steps: the summed dimensions to the rank, the rank to the others."""
  inputs, out = eqn.split('->')
  x_dims, w_dims = inputs.split(',')
  kept = ''.join(c for c in w_dims if c in out)
  summed = ''.join(c for c in w_dims if c not in out)
  low_dims = ''.join(c for c in out if c not in kept) + 'z'
  seen = dropout(x, w.dropout, w.keys)
  low = jnp.einsum(f'{x_dims},{summed}z->{low_dims}', seen, w.a.astype(x.dtype))
  correction = jnp.einsum(f'{low_dims},z{kept}->{out}', low, w.b.astype(x.dtype))
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


def _in_float32(w: Int8) -> jax.Array:
  return dense(w.replace(scale=w.scale.astype(jnp.float32)))


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
