"""Products of a few rows with a weight on a CPU, as decoding has them, in pieces inside a loop.

If a bfloat16 or int8 weight is converted whole, XLA for CPU hoists the float32 copy out of the decoding loop and keeps
it: more memory than float32 weights, and no faster. A slice at the loop's counter is not hoisted. In a product of a few
rows with a float32 weight, XLA packs the whole weight every time; a piece that fits a core's cache is packed in it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

PIECE = 2**17  # float32 weights; 0.5 MB, half of a core's cache
NARROW_PIECE = 2**19  # weights that are converted: smaller pieces save less than the loop's iterations cost
FEW_ROWS = 64  # of x; with more, a converted weight is used often enough to be written out
FLOAT32_ROWS = range(2, 17)  # of x, times a float32 weight; one row is a product with a vector, which packs nothing


@struct.dataclass
class Streamed:
  """A weight as decoding on a CPU reads it: float32, or a bfloat16 one as its bits."""

  values: jax.Array  # float32, or uint16: XLA for CPU keeps a float32 copy of every bfloat16 array

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the weight."""
    return self.values.shape

  @property
  def dtype(self) -> Any:
    """Of the weight."""
    return jnp.bfloat16 if self.values.dtype == jnp.uint16 else self.values.dtype


def streamed(w: Any) -> Any:
  """A float32 or bfloat16 array as `Streamed`; other weights unchanged."""
  if not isinstance(w, jax.Array):
    return w
  if w.dtype == jnp.float32:
    return Streamed(w)
  if w.dtype == jnp.bfloat16:
    bits = jax.lax.bitcast_convert_type(w, jnp.uint16)
    return Streamed(bits)
  return w


def array(w: Streamed) -> jax.Array:
  """The weight in its own dtype."""
  if w.values.dtype != jnp.uint16:
    return w.values
  return jax.lax.bitcast_convert_type(w.values, jnp.bfloat16)


def einsum(eqn: str, x: jax.Array, w: Streamed) -> jax.Array:
  """`jnp.einsum(eqn, x, w)`, on a CPU in pieces where that is faster."""
  narrow = w.dtype != jnp.float32
  return cut_einsum(eqn, x, w, shape=w.shape, narrow=narrow, array=array, float32=_float32)


def _float32(w: Streamed) -> jax.Array:
  if w.values.dtype != jnp.uint16:  # of another dtype after a cast of all weights
    return w.values.astype(jnp.float32)
  widened = w.values.astype(jnp.uint32) << 16  # a bfloat16 is the upper half of a float32
  return jax.lax.bitcast_convert_type(widened, jnp.float32)


def cut_einsum(
  eqn: str, x: jax.Array, w: Any, *, shape: tuple[int, ...], narrow: bool, array: Callable, float32: Callable
) -> jax.Array:
  """`einsum` for any kind of weight: `array` gives it as an array of `shape`, `float32` as one in float32."""

  def whole(x, w):
    return jnp.einsum(eqn, x, array(w))

  cut = plan(eqn, x, shape, narrow=narrow)
  if cut is None:
    return whole(x, w)
  dtype = jax.eval_shape(whole, x, w).dtype

  def by_pieces(x, w):
    return product(x, w, cut, float32).astype(dtype)

  return jax.lax.platform_dependent(x, w, cpu=by_pieces, default=whole)


class Plan(NamedTuple):
  """How a product is cut: the first `axes` axes of the weight are summed over, in `pieces` equal pieces.

  by_row: each row of x is multiplied by itself, as a vector.
  """

  axes: int
  pieces: int
  by_row: bool = False


def plan(eqn: str, x: jax.Array, shape: tuple[int, ...], *, narrow: bool) -> Plan | None:
  """The plan of `einsum(eqn, x, weight of this shape)`, or None if the product with the whole weight is faster.

  narrow: the weight has fewer bits than float32 and must be converted.
  The summed axes must be the weight's first and x's last.
  """
  axes = _summed_axes(eqn)
  mesh = jax.sharding.get_abstract_mesh()
  if not axes or mesh.size > 1:
    return None
  inputs = math.prod(shape[:axes])
  size = math.prod(shape)
  rows = x.size // inputs
  if not narrow and (rows not in FLOAT32_ROWS or size <= PIECE):
    return Plan(axes, 1)
  most = NARROW_PIECE if narrow else PIECE
  pieces = _count(inputs, size, most) if rows <= FEW_ROWS else 0
  if not pieces:
    return None
  # A widened piece is in the cache: reading it for two products with vectors is faster than packing it for one product.
  return Plan(axes, pieces, by_row=narrow and rows == 2)


def _summed_axes(eqn: str) -> int:
  """How many axes are summed, if they are the first of the weight and the last of x in one order; else 0."""
  operands, out = eqn.split('->')
  x_dims, w_dims = operands.split(',')
  summed = ''.join(c for c in w_dims if c not in out)
  outputs = w_dims.removeprefix(summed)
  kept = x_dims.removesuffix(summed)
  regular = (x_dims, w_dims, out) == (kept + summed, summed + outputs, kept + outputs)
  return len(summed) if regular and outputs else 0


def _count(inputs: int, size: int, most: int) -> int:
  """How many equal pieces of at most `most` weights the inputs are cut into, or 0 if no number near that divides them.

  At least two: XLA inlines a loop of one iteration and hoists its copy again.
  """
  least = max(2, math.ceil(size / most))
  for pieces in range(least, min(4 * least, inputs) + 1):
    if inputs % pieces == 0:
      return pieces
  return 0


def product(x: jax.Array, weight: Any, cut: Plan, float32: Callable[[Any], jax.Array]) -> jax.Array:
  """float32 [..., outputs]: x [..., inputs] times a weight [inputs, outputs], each of one axis or more.

  weight: a tree of arrays that share the weight's input axes; `float32` makes [I, O] of slices of its [I, ...] arrays.
  """
  first, *_ = jax.tree.leaves(weight)
  inputs = math.prod(first.shape[: cut.axes])
  kept = x.shape[: x.ndim - cut.axes]
  shape = (*kept, *first.shape[cut.axes :])
  rows = x.reshape(-1, inputs).astype(jnp.float32)
  matrix = jax.tree.map(lambda w: w.reshape(inputs, -1), weight)
  y = _sum_of_pieces(rows, matrix, cut, float32)
  return y.reshape(shape)


def _sum_of_pieces(rows: jax.Array, matrix: Any, cut: Plan, float32: Callable[[Any], jax.Array]) -> jax.Array:
  """rows [R, I] times a matrix [I, O]: for each piece, its columns of `rows` times its rows of the matrix."""
  if cut.pieces == 1:
    return rows @ float32(matrix)
  count, inputs = rows.shape
  step = inputs // cut.pieces
  multiply = _row_by_row if cut.by_row else jnp.matmul

  def add(i, y):
    start = i * step
    piece = jax.tree.map(lambda w: jax.lax.dynamic_slice_in_dim(w, start, step), matrix)
    columns = jax.lax.dynamic_slice_in_dim(rows, start, step, axis=1)
    return y + multiply(columns, float32(piece))

  outputs = jax.eval_shape(float32, matrix).shape[1]
  zeros = jnp.zeros((count, outputs), jnp.float32)
  return jax.lax.fori_loop(0, cut.pieces, add, zeros)


def _row_by_row(rows: jax.Array, w: jax.Array) -> jax.Array:
  products = [row @ w for row in jnp.split(rows, rows.shape[0])]
  return jnp.concatenate(products)
