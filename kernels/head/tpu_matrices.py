"""The feed-forward matrices inside the TPU kernel: which blocks of them are in VMEM, and products with a block.

Int8 matrices stay int8 in VMEM. A scale belongs to one input and a group of outputs, so the kernel multiplies the
inputs by the scales, then by the values: it scales a few rows instead of many weights.

L layers   D width   F feed-forward   R rows
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.head.arguments import MATRICES, Block
from kernels.head.tiles import LANES, Tiles
from kernels.int8 import GROUP, Int8


class Matrices(NamedTuple):
  """The matrices (gate, up, down) of all layers, or () where no column is of that kind.

  streamed, resident: [L, D, F], [L, D, F], [L, F, D]; references to them see the blocks of a grid step. scales: of
  `Int8`, float32 [L, outputs / GROUP, inputs] each.
  """

  streamed: tuple
  resident: tuple
  scales: tuple


def refuse(block: Block) -> str | None:
  """Why the kernel cannot read these matrices, or None."""
  weights = _weights(block)
  are_int8 = [isinstance(w, Int8) for w in weights]
  if not any(are_int8):
    return None
  if not all(are_int8):
    names = ', '.join(MATRICES)
    return f'the TPU kernel takes {names} all as int8 or none'
  for w in weights:
    scaled = w.scale.shape[-1] * GROUP
    if scaled != w.values.shape[-1]:
      return f'the TPU kernel takes int8 weights with a scale for every {GROUP} outputs'
  return None


def _weights(block: Block) -> list[Any]:
  """(gate, up, down): arrays or `Int8`."""
  return [getattr(block, name) for name in MATRICES]


def shape(block: Block) -> tuple[int, int, int]:
  """(L, D, F)."""
  return _values(block.gate).shape


def itemsize(block: Block) -> int:
  """Bytes of a weight."""
  return _values(block.gate).dtype.itemsize


def _values(w: Any) -> jax.Array:
  return w.values if isinstance(w, Int8) else w


def scale_bytes(block: Block) -> int:
  """Bytes of VMEM that the scales take, in whole register tiles."""
  if not isinstance(block.gate, Int8):
    return 0
  depth, width, mlp = shape(block)
  up = _padded_groups(mlp) * width
  gate = up
  down = _padded_groups(width) * mlp
  return 4 * depth * (gate + up + down)


def _padded_groups(outputs: int) -> int:
  """Groups of outputs, in whole tiles of 8 rows."""
  tiles = -(-outputs // GROUP // 8)
  return tiles * 8


def matrices(block: Block, tiles: Tiles) -> Matrices:
  """The matrices of stacked layers as the kernel takes them."""
  weights = _weights(block)
  values = tuple(map(_values, weights))
  scales = tuple(_scale(w) for w in weights if isinstance(w, Int8))
  return Matrices(
    streamed=values if tiles.streamed else (),
    resident=values if tiles.resident else (),
    scales=scales,
  )


def _scale(w: Int8) -> jax.Array:
  """float32 [L, outputs / GROUP, inputs]."""
  groups_first = jnp.swapaxes(w.scale, 1, 2)
  return groups_first.astype(jnp.float32)


def specs(given: Matrices, tiles: Tiles) -> Matrices:
  """Block specs; the resident columns come first in each layer."""
  gate, _, _ = given.streamed or given.resident
  depth, width, _ = gate.shape
  before = tiles.count * tiles.resident
  streamed = ()
  resident = ()
  if tiles.streamed:
    streamed = _streamed_specs(width, before, tiles.streamed)
  if tiles.resident:
    resident = _resident_specs(depth, width, before)
  whole = pl.BlockSpec(memory_space=pltpu.VMEM)
  scales = (whole,) * len(given.scales)
  return Matrices(streamed, resident, scales)


def _streamed_specs(width: int, before: int, columns: int) -> tuple:
  """Block specs of (gate, up, down) for `columns` columns a grid step, after the `before` resident ones."""
  first = before // columns
  wide = pl.BlockSpec((1, width, columns), lambda n, l, s: (l, 0, first + s))
  down = pl.BlockSpec((1, columns, width), lambda n, l, s: (l, first + s, 0))
  return wide, wide, down


def _resident_specs(depth: int, width: int, columns: int) -> tuple:
  """Block specs of (gate, up, down) for the first `columns` columns of all layers, which are fetched once."""
  once = pl.Buffered(1)  # the block never changes, so one buffer will do
  wide = pl.BlockSpec((depth, width, columns), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
  down = pl.BlockSpec((depth, columns, width), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
  return wide, wide, down


class Matrix(NamedTuple):
  """A block of a matrix in VMEM: values [I, O], and of int8 a scale [1, I] for each group of outputs."""

  values: jax.Array
  scales: tuple = ()


def blocks(refs: Matrices, layer: Any, tile: Any, tiles: Tiles) -> list[tuple[Matrix, Matrix, Matrix]]:
  """(gate, up, down) of the columns that a grid step multiplies."""
  parts = []
  if refs.streamed:
    before = tiles.count * tiles.resident
    first = before + tile * tiles.streamed
    scales = _scales(refs.scales, layer, first, tiles.streamed)
    values = [ref[0] for ref in refs.streamed]
    parts.append(tuple(map(Matrix, values, scales)))
  if refs.resident:
    first = pl.multiple_of(tile * tiles.resident, tiles.resident)
    scales = _scales(refs.scales, layer, first, tiles.resident)
    columns = pl.ds(first, tiles.resident)
    gate, up, down = refs.resident
    values = gate[layer, :, columns], up[layer, :, columns], down[layer, columns, :]
    parts.append(tuple(map(Matrix, values, scales)))
  return parts


def _scales(refs: tuple, layer: Any, first: Any, columns: int) -> tuple[tuple, tuple, tuple]:
  """For each matrix the scales of its groups, for the `columns` feed-forward columns that start at `first`."""
  if not refs:
    return (), (), ()
  before = first // GROUP

  def of_columns(ref):
    groups = [pl.ds(before + g, 1) for g in range(columns // GROUP)]
    return tuple(ref[layer, group, :] for group in groups)

  gate, up, down = refs
  gate = of_columns(gate)
  up = of_columns(up)
  inputs = pl.ds(pl.multiple_of(first, LANES), columns)
  groups = [pl.ds(g, 1) for g in range(down.shape[1])]
  return gate, up, tuple(down[layer, group, inputs] for group in groups)


def dot(x: jax.Array, matrix: Matrix, dtype: Any) -> jax.Array:
  """x [R, I] times a block, float32 [R, O], with factors rounded to `dtype`."""
  if not matrix.scales:
    return product(x, matrix.values)
  parts = []
  for group, scale in enumerate(matrix.scales):
    first = group * GROUP
    outputs = matrix.values[:, first : first + GROUP]
    parts.append(product(x * scale, outputs.astype(dtype)))
  return jnp.concatenate(parts, axis=1)


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
  """x [R, I], rounded to the weight's type, times a weight [I, O], in float32."""
  rounded = x.astype(weight.dtype)
  precision = None
  if weight.dtype == jnp.float32:
    precision = jax.lax.Precision.HIGHEST  # by default the MXU multiplies in bfloat16
  return jnp.dot(rounded, weight, preferred_element_type=jnp.float32, precision=precision)
