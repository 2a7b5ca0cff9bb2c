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
    return next((i for i, a in enumerate(self.axes) if a not in STACK_AXES), len(self.axes))

  @property
  def fan_in(self) -> int:
    """How many products each output sums; of a table, the width of a row: the head that is tied to it sums those."""
    return math.prod(self.shape[self.stack : self.stack + self.inputs]) if self.inputs else self.shape[-1]


def stacked(spec: Any, depth: int) -> Any:
  """The spec of `depth` equal blocks, stacked on a leading `layers` axis."""
  grow = lambda s: dataclasses.replace(s, shape=(depth, *s.shape), axes=('layers', *s.axes))
  return jax.tree.map(grow, spec)


def path_name(path: Sequence) -> str:
  """`blocks.attn.q` for a tree path; positions in tuples are left out, so stacked and unstacked names agree."""
  keys = (getattr(k, 'name', getattr(k, 'key', None)) for k in path)
  return '.'.join(str(k) for k in keys if k is not None)


def init(key: jax.Array, spec: Any, dtype=jnp.float32) -> Any:
  """Draws every weight. A weight's key depends on its own name only, so adding one changes no other."""

  def draw(key, path, s):
    own = jax.random.fold_in(key, zlib.crc32(path_name(path).encode()))
    if s.init is not None:
      return s.init(own, s.shape, dtype)
    return (jax.random.normal(own, s.shape) / math.sqrt(s.fan_in)).astype(dtype)

  # The key is an argument: draws from a constant one would be folded by the compiler, slowly.
  @jax.jit
  def draw_all(key):
    return jax.tree.map_with_path(functools.partial(draw, key), spec)

  return draw_all(key)


def abstract(spec: Any, dtype=jnp.float32) -> Any:
  """The tree as `jax.ShapeDtypeStruct`s: shapes without memory."""
  return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), spec)


def count(spec: Any) -> int:
  """Number of parameters."""
  return sum(math.prod(s.shape) for s in jax.tree.leaves(spec))


def cast(params: Any, dtype) -> Any:
  """Floating-point leaves in `dtype`; integers (Int8 values) stay."""
  return jax.tree.map(lambda w: w.astype(dtype) if jnp.issubdtype(w.dtype, jnp.floating) else w, params)


def unstack(blocks: Any) -> tuple:
  """Stacked blocks as a tuple of blocks: static weights, faster to decode with on CPU and GPU."""
  depth = jax.tree.leaves(blocks)[0].shape[0]
  return tuple(jax.tree.map(operator.itemgetter(i), blocks) for i in range(depth))


def walk(layer: Callable, x: Any, blocks: Any, *per_layer: Any) -> tuple[Any, Any]:
  """Runs `layer(x, i, block, *per_layer_i) -> (x, out)` over all blocks, scanned or unrolled.

  Stacked `blocks` (a leading layer axis on each leaf) are scanned: `i` is traced and each leaf of `out` comes back
  stacked. A tuple of blocks is unrolled: `i` is an int and each leaf of `out` a tuple. `per_layer` likewise.
  """
  if isinstance(blocks, tuple):
    outs = []
    for i, (block, *rest) in enumerate(zip(blocks, *per_layer)):
      x, out = layer(x, i, block, *rest)
      outs.append(out)
    return x, jax.tree.map(lambda *leaves: leaves, *outs)
  depth = jax.tree.leaves(blocks)[0].shape[0]
  return jax.lax.scan(lambda x, xs: layer(x, *xs), x, (jnp.arange(depth), blocks, *per_layer))


def stack(leaf: Any) -> jax.Array:
  """One leaf of what `walk` returned as an array with a leading layer axis."""
  return jnp.stack(leaf) if isinstance(leaf, tuple) else leaf


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
  scale = jnp.maximum(jnp.abs(grouped).max(-1), jnp.finfo(jnp.float32).tiny) / 127
  values = jnp.round(grouped / scale[..., None]).astype(jnp.int8)
  return Int8(values.reshape(w.shape), scale.astype(w.dtype))


@struct.dataclass
class Streamed:
  """A matrix as decoding on a CPU reads it: float32, or a bfloat16 one as its bits (`kernels.pieces`)."""

  values: jax.Array  # float32, or uint16: XLA for CPU keeps a float32 copy of whatever has the type bfloat16

  @property
  def dtype(self) -> Any:
    """Of the matrix."""
    return jnp.bfloat16 if self.values.dtype == jnp.uint16 else self.values.dtype


def streamed(w: Any) -> Any:
  """A float32 or bfloat16 array as `Streamed`; every other weight as it is."""
  if not isinstance(w, jax.Array) or w.dtype not in (jnp.bfloat16, jnp.float32):
    return w
  return Streamed(w if w.dtype == jnp.float32 else jax.lax.bitcast_convert_type(w, jnp.uint16))


@struct.dataclass
class Lora:
  """A weight with a low-rank correction (LoRA, arXiv 2106.09685): base + alpha/rank · a·b.

  a: [stack..., inputs..., rank], b: [stack..., rank, outputs...]. Train the leaves named `a` and `b`. keys: [stack...],
  of `with_dropout`, in a pass that trains: the correction sees its input with that share of the values dropped.
  """

  base: Any
  a: jax.Array
  b: jax.Array
  alpha: float = struct.field(pytree_node=False, default=16.0)
  keys: Any = None
  dropout: float = struct.field(pytree_node=False, default=0.0)


def lora(key: jax.Array, params: Any, spec: Any, pattern: str, *, rank: int, alpha: float = 16.0) -> Any:
  """Adds a zero-output adapter of `rank` to each weight whose name matches `pattern` fully.

  Raises ValueError when nothing matches or a match is not a matrix-like dense weight.
  """
  specs = {path_name(p): s for p, s in jax.tree.flatten_with_path(spec)[0]}

  def adapt(name, w):
    s = specs[name]
    if 'experts' in s.axes or len(s.shape) - s.stack <= s.inputs:
      raise ValueError(f'lora: {name} {s.axes} is not a dense matrix; choose a pattern of attention or MLP weights')
    cut = s.stack + s.inputs
    a_shape, b_shape = (*s.shape[:cut], rank), (*s.shape[: s.stack], rank, *s.shape[cut:])
    a_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    std = 1 / math.sqrt(math.prod(s.shape[s.stack : cut]))
    return Lora(w, std * jax.random.normal(a_key, a_shape, jnp.float32), jnp.zeros(b_shape, jnp.float32), alpha)

  return map_weights(adapt, params, pattern)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Dropout (arXiv 1207.0580): each value is 0 with probability `rate`, the others are scaled up; no key: x itself."""
  if key is None:
    return x
  kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def with_dropout(params: Any, key: jax.Array, rate: float) -> Any:
  """The weights for one pass of training, whose adapters each drop values of their inputs by a key of their own.

  As PEFT's `lora_dropout`: the base sees all of its input. Raises ValueError unless 0 <= rate < 1.
  """
  if not 0 <= rate < 1:
    raise ValueError(f'dropout={rate}: expected a share from 0 to below 1')

  def visit(path, w):
    if not isinstance(w, Lora):
      return w
    own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
    return w.replace(keys=jax.random.split(own, w.a.shape[: _stack(w)]), dropout=rate)

  return jax.tree.map_with_path(visit, params, is_leaf=_is_weight)


def _stack(w: Lora) -> int:
  """How many leading axes index whole weights: they are counted in both factors."""
  base = jax.eval_shape(dense, w.base)
  return w.a.ndim + w.b.ndim - 2 - base.ndim


@struct.dataclass
class Flat:
  """A weight [inputs, *outputs] as a matrix [Π outputs, inputs], which is how checkpoints hold it.

  XLA for TPU wants projections to heads so: of others a decoding loop makes copies first, which live as long as it.
  """

  matrix: Any
  outputs: tuple[int, ...] = struct.field(pytree_node=False)


def fold(params: Any) -> Any:
  """Every weight as a plain array: LoRA corrections added in, int8 values scaled."""
  return jax.tree.map(dense, params, is_leaf=_is_weight)


def _is_weight(w: Any) -> bool:
  return isinstance(w, (Int8, Streamed, Lora, Flat))


def dense(w: Any) -> jax.Array:
  """The plain array a weight stands for."""
  if isinstance(w, Int8):
    groups = w.scale.shape[-1]
    grouped = w.values.reshape(*w.values.shape[:-1], groups, -1).astype(w.scale.dtype)
    return (grouped * w.scale[..., None]).reshape(w.values.shape)
  if isinstance(w, Streamed):
    return w.values if w.dtype == jnp.float32 else jax.lax.bitcast_convert_type(w.values, w.dtype)
  if isinstance(w, Lora):
    base = dense(w.base)
    rank = w.a.shape[-1]
    stack = _stack(w)
    a = w.a.reshape(*w.a.shape[:stack], -1, rank)
    b = w.b.reshape(*w.b.shape[:stack], rank, -1)
    return base + (w.alpha / rank * (a @ b)).reshape(base.shape).astype(base.dtype)
  if isinstance(w, Flat):
    return w.matrix.T.reshape(-1, *w.outputs)
  return w


def einsum(eqn: str, x: jax.Array, w: Any) -> jax.Array:
  """`jnp.einsum(eqn, x, w)` for a weight `w` of any kind; the letter `z` is reserved for the rank and flat outputs."""
  if isinstance(w, Lora):
    (x_dims, w_dims), out = eqn.split('->')[0].split(','), eqn.split('->')[1]
    kept = ''.join(c for c in w_dims if c in out)
    summed = ''.join(c for c in w_dims if c not in out)
    low_dims = ''.join(c for c in out if c not in kept) + 'z'
    seen = dropout(x, w.dropout, w.keys)
    low = jnp.einsum(f'{x_dims},{summed}z->{low_dims}', seen, w.a.astype(x.dtype))
    correction = jnp.einsum(f'{low_dims},z{kept}->{out}', low, w.b.astype(x.dtype))
    return einsum(eqn, x, w.base) + (w.alpha / w.a.shape[-1]) * correction
  if isinstance(w, (Int8, Streamed)):
    return _by_pieces(eqn, x, w)
  if isinstance(w, Flat):
    (x_dims, w_dims), out = eqn.split('->')[0].split(','), eqn.split('->')[1]
    y = jnp.einsum(f'{x_dims},z{w_dims[0]}->{out.removesuffix(w_dims[1:])}z', x, w.matrix)
    return y.reshape(*y.shape[:-1], *w.outputs)
  return jnp.einsum(eqn, x, dense(w))


def take(table: Any, ids: jax.Array) -> jax.Array:
  """Rows [..., D] of a table [V, D] of any kind."""
  if isinstance(table, Streamed):
    return dense(Streamed(table.values[ids]))
  return table[ids]


def _by_pieces(eqn: str, x: jax.Array, w: Any) -> jax.Array:
  values = w.values
  cut = pieces.plan(eqn, x, values.shape, narrow=values.dtype != jnp.float32)
  whole = lambda x, w: jnp.einsum(eqn, x, dense(w))
  if cut is None:
    return whole(x, w)
  dtype = jax.eval_shape(whole, x, w).dtype
  by_pieces = lambda x, w: pieces.product(x, w, cut, _float32).astype(dtype)
  return jax.lax.platform_dependent(x, w, cpu=by_pieces, default=whole)


def _float32(w: Any) -> jax.Array:
  """The plain array of an Int8 or Streamed weight in float32."""
  if isinstance(w, Int8):
    return dense(w.replace(scale=w.scale.astype(jnp.float32)))
  if w.values.dtype == jnp.float32:
    return w.values
  return jax.lax.bitcast_convert_type(w.values.astype(jnp.uint32) << 16, jnp.float32)


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

  out = jax.tree.map_with_path(visit, params, is_leaf=_is_weight)
  if not hit:
    names = [path_name(p) for p, _ in jax.tree.flatten_with_path(params, is_leaf=_is_weight)[0]]
    raise ValueError(f'no weight matches {pattern!r}; names look like {names[:3]}')
  return out
