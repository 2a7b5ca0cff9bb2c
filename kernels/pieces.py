"""Products of few rows with a weight on a CPU, piece by piece inside a loop: decoding.

Of a weight of few bits that is converted in one go, XLA for CPU moves the float32 copy out of a decoding loop and keeps
it: more memory than float32 weights, and no faster. A slice by a loop's counter stays where it is. For a product of a
few rows with a float32 weight, XLA packs the whole weight anew; a piece that fits a core's cache is packed there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

PIECE = 2**17  # weights; 0.5 MB in float32, half of a core's cache
FEW_ROWS = 64  # of x; with more, a converted weight is used often enough to be written out
FLOAT32_ROWS = range(2, 17)  # of x, times a float32 weight; one row is a product with a vector, which packs nothing


@struct.dataclass
class Streamed:
  """A weight as decoding on a CPU reads it: float32, or a bfloat16 one as its bits."""

  values: jax.Array  # float32, or uint16: XLA for CPU keeps a float32 copy of whatever has the type bfloat16

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the weight."""
    return self.values.shape

  @property
  def dtype(self) -> Any:
    """Of the weight."""
    return jnp.bfloat16 if self.values.dtype == jnp.uint16 else self.values.dtype


def streamed(w: Any) -> Any:
  """A float32 or bfloat16 array as `Streamed`; every other weight as it is."""
  if not isinstance(w, jax.Array) or w.dtype not in (jnp.bfloat16, jnp.float32):
    return w
  return Streamed(w if w.dtype == jnp.float32 else jax.lax.bitcast_convert_type(w, jnp.uint16))


def array(w: Streamed) -> jax.Array:
  """The weight in its own dtype."""
  bits = w.values.dtype == jnp.uint16
  return jax.lax.bitcast_convert_type(w.values, jnp.bfloat16) if bits else w.values


def matmul(x: jax.Array, w: Any) -> jax.Array:
  """x [R, I] times a weight [I, O], an array or `Streamed`."""
  return einsum('ri,io->ro', x, w) if isinstance(w, Streamed) else x @ w


def einsum(eqn: str, x: jax.Array, w: Streamed) -> jax.Array:
  """`jnp.einsum(eqn, x, w)`, on a CPU piece by piece where that is faster."""
  narrow = w.dtype != jnp.float32
  return cut_einsum(eqn, x, w, shape=w.shape, narrow=narrow, array=array, float32=_float32)


def _float32(w: Streamed) -> jax.Array:
  if w.values.dtype != jnp.uint16:  # of another dtype after a cast of all weights
    return w.values.astype(jnp.float32)
  return jax.lax.bitcast_convert_type(w.values.astype(jnp.uint32) << 16, jnp.float32)


def cut_einsum(
  eqn: str, x: jax.Array, w: Any, *, shape: tuple[int, ...], narrow: bool, array: Callable, float32: Callable
) -> jax.Array:
  """As `einsum`, of a weight of any kind: `array` makes it a plain one of this shape, `float32` one in float32."""
  whole = lambda x, w: jnp.einsum(eqn, x, array(w))
  cut = plan(eqn, x, shape, narrow=narrow)
  if cut is None:
    return whole(x, w)
  dtype = jax.eval_shape(whole, x, w).dtype
  by_pieces = lambda x, w: product(x, w, cut, float32).astype(dtype)
  return jax.lax.platform_dependent(x, w, cpu=by_pieces, default=whole)


class Plan(NamedTuple):
  """How a product is cut: the first `axes` axes of the weight are summed over, in `pieces` equal pieces.

  by_row: each row of x is multiplied by itself, as a vector.
  """

  axes: int
  pieces: int
  by_row: bool = False


def plan(eqn: str, x: jax.Array, shape: tuple[int, ...], *, narrow: bool) -> Plan | None:
  """The plan of `einsum(eqn, x, weight of this shape)`, or None where the whole weight as it is serves better.

  narrow: the weight has fewer bits than float32 and must be converted.
  The summed axes must be the weight's first and x's last.
  """
  axes = _summed_axes(eqn)
  alone = jax.sharding.get_abstract_mesh().size <= 1
  if not (axes and alone):
    return None
  inputs, size = math.prod(shape[:axes]), math.prod(shape)
  rows = x.size // inputs
  if not narrow and (rows not in FLOAT32_ROWS or size <= PIECE):
    return Plan(axes, 1)
  pieces = _count(inputs, size) if rows <= FEW_ROWS else 0
  # A widened piece is in the cache: two products with vectors read it faster than one of two rows packs it.
  return Plan(axes, pieces, by_row=narrow and rows == 2) if pieces else None


def _summed_axes(eqn: str) -> int:
  """How many axes are summed, if they are the first of the weight and the last of x in one order; else 0."""
  operands, out = eqn.split('->')
  x_dims, w_dims = operands.split(',')
  summed = ''.join(c for c in w_dims if c not in out)
  outputs = w_dims.removeprefix(summed)
  kept = x_dims.removesuffix(summed)
  regular = w_dims == summed + outputs and x_dims == kept + summed and out == kept + outputs
  return len(summed) if regular and outputs else 0


def _count(inputs: int, size: int) -> int:
  """How many equal pieces of at most PIECE weights the inputs fall into, or 0 where nothing near divides them.

  At least two: a loop of one turn would be inlined, and its copy moved out again.
  """
  least = max(2, -(-size // PIECE))
  divisors = (pieces for pieces in range(least, min(4 * least, inputs) + 1) if inputs % pieces == 0)
  return next(divisors, 0)


def product(x: jax.Array, weight: Any, cut: Plan, float32: Callable[[Any], jax.Array]) -> jax.Array:
  """float32 [..., outputs]: x [..., inputs] times a weight [inputs, outputs], each of one axis or more.

  weight: a tree of arrays that share the weight's input axes; `float32` makes [I, O] of slices of its [I, ...] arrays.
  """
  leaves = jax.tree.leaves(weight)
  inputs = math.prod(leaves[0].shape[: cut.axes])
  weight = jax.tree.map(lambda w: w.reshape(inputs, -1), weight)
  outputs = jax.eval_shape(float32, weight).shape[1]
  rows = x.reshape(-1, inputs).astype(jnp.float32)
  shape = (*x.shape[: x.ndim - cut.axes], *leaves[0].shape[cut.axes :])
  if cut.pieces == 1:
    return (rows @ float32(weight)).reshape(shape)
  step = inputs // cut.pieces
  multiply = _row_by_row if cut.by_row else jnp.matmul

  def add(i, y):
    piece = jax.tree.map(lambda w: jax.lax.dynamic_slice_in_dim(w, i * step, step), weight)
    return y + multiply(jax.lax.dynamic_slice_in_dim(rows, i * step, step, axis=1), float32(piece))

  y = jax.lax.fori_loop(0, cut.pieces, add, jnp.zeros((rows.shape[0], outputs), jnp.float32))
  return y.reshape(shape)


def _row_by_row(rows: jax.Array, w: jax.Array) -> jax.Array:
  return jnp.concatenate([row @ w for row in jnp.split(rows, rows.shape[0])])
