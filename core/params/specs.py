"""Weights as data: one `Spec` a weight, and the short maps over a tree of them.

A model's parameters are a tree of `flax.struct` dataclasses. `spec(config)` of a model returns the same tree
with a `Spec` at each leaf; initial values, abstract shapes, counts, shardings (`core.mesh`) and the checkpoint
loader (`core.files.weights`) are maps over it, so they cannot drift apart.

A leaf may also be a weight of another kind (`core.params.kinds`).
"""

import dataclasses
import functools
import math
import operator
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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


def draw(make: Callable[[jax.Array], Any], key: jax.Array, places: Any = None) -> Any:
  """The random weights `make(key)`, of `init`, on their shardings.

  On a CPU their program, which is large and runs once, is compiled with few optimisations: InternVL's toy in 3 CPU
  seconds instead of 13, to the same bits.
  """
  options = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else {}
  return jax.jit(make, out_shardings=places, compiler_options=options)(key)


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


def walk(layer: Callable, x: Any, blocks: Any, *per_layer: Any, unroll: int = 1) -> tuple[Any, Any]:
  """Runs `layer(x, i, block, *per_layer_i) -> (x, out)` over all blocks, scanned or unrolled.

  Stacked `blocks` (a leading layer axis on each leaf) are scanned, `unroll` layers an iteration: `i` is traced and each
  leaf of `out` comes back stacked. A tuple of blocks is unrolled: `i` is an int and each leaf of `out` a tuple.
  `per_layer` is stacked, or tuples, as `blocks` is.
  """
  if isinstance(blocks, tuple):
    outs = []
    for i, (block, *rest) in enumerate(zip(blocks, *per_layer)):
      x, out = layer(x, i, block, *rest)
      outs.append(out)
    return x, jax.tree.map(lambda *leaves: leaves, *outs) if outs else ()
  depth = jax.tree.leaves(blocks)[0].shape[0]
  inputs = (jnp.arange(depth), blocks, *per_layer)
  return jax.lax.scan(lambda x, xs: layer(x, *xs), x, inputs, unroll=unroll)


def stack(leaf: Any) -> jax.Array:
  """One leaf of what `walk` returned, an array or a tuple of [...], as an array [L, ...]."""
  if isinstance(leaf, tuple):
    return jnp.stack(leaf)
  return leaf


# Weights that multiply in their own way.
