"""The feed-forward matrices inside the TPU kernel: which blocks of them are in VMEM, and products with a block.

Those of 8 bits stay so in VMEM. A scale belongs to one input and a group of outputs, so a group's product is that of
its values with inputs times scales: few rows are scaled instead of many weights.

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
  """Of all layers: (gate, up, down), or () where no column is of that kind.

  streamed, resident: [L, D, F], [L, D, F], [L, F, D]; references to them see the blocks of a grid step. scales: of
  `Int8`, float32 [L, outputs / GROUP, inputs] each.
  """

  streamed: tuple
  resident: tuple
  scales: tuple


def refuse(block: Block) -> str | None:
  """Why the kernel cannot read these matrices, or None."""
  weights = [getattr(block, name) for name in MATRICES]
  if not any(isinstance(w, Int8) for w in weights):
    return None
  if not all(isinstance(w, Int8) for w in weights):
    return f'the TPU kernel takes {", ".join(MATRICES)} all as int8 or none'
  if any(w.scale.shape[-1] * GROUP != w.values.shape[-1] for w in weights):
    return f'the TPU kernel takes int8 weights with a scale for every {GROUP} outputs'
  return None


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
  padded = [-(-outputs // GROUP // 8) * 8 * inputs for outputs, inputs in ((mlp, width), (mlp, width), (width, mlp))]
  return 4 * depth * sum(padded)


def matrices(block: Block, tiles: Tiles) -> Matrices:
  """The matrices of stacked layers as the kernel takes them."""
  weights = [getattr(block, name) for name in MATRICES]
  values = tuple(_values(w) for w in weights)
  scales = tuple(jnp.swapaxes(w.scale, 1, 2).astype(jnp.float32) for w in weights if isinstance(w, Int8))
  return Matrices(
    streamed=values if tiles.streamed else (),
    resident=values if tiles.resident else (),
    scales=scales,
  )


def specs(given: Matrices, tiles: Tiles) -> Matrices:
  """Block specs; the resident columns come first in each layer."""
  depth, width, _ = (given.streamed or given.resident)[0].shape
  before = tiles.count * tiles.resident
  once = pl.Buffered(1)  # one copy: the block never changes
  streamed = ()
  resident = ()
  if tiles.streamed:
    first = before // tiles.streamed
    columns = pl.BlockSpec((1, width, tiles.streamed), lambda n, l, s: (l, 0, first + s))
    lines = pl.BlockSpec((1, tiles.streamed, width), lambda n, l, s: (l, first + s, 0))
    streamed = columns, columns, lines
  if tiles.resident:
    columns = pl.BlockSpec((depth, width, before), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
    lines = pl.BlockSpec((depth, before, width), lambda n, l, s: (0, 0, 0), pipeline_mode=once)
    resident = columns, columns, lines
  whole = pl.BlockSpec(memory_space=pltpu.VMEM)
  return Matrices(streamed, resident, (whole,) * len(given.scales))


class Matrix(NamedTuple):
  """A block of a matrix in VMEM: values [I, O], and of int8 a scale [1, I] for each group of outputs."""

  values: jax.Array
  scales: tuple = ()


def blocks(refs: Matrices, layer: Any, tile: Any, tiles: Tiles) -> list[tuple[Matrix, Matrix, Matrix]]:
  """(gate, up, down) of the columns that a grid step multiplies."""
  found = []
  if refs.streamed:
    first = tiles.count * tiles.resident + tile * tiles.streamed
    scales = _scales(refs.scales, layer, first, tiles.streamed)
    values = (ref[0] for ref in refs.streamed)
    found.append(tuple(map(Matrix, values, scales)))
  if refs.resident:
    first = pl.multiple_of(tile * tiles.resident, tiles.resident)
    scales = _scales(refs.scales, layer, first, tiles.resident)
    columns = pl.ds(first, tiles.resident)
    gate, up, down = refs.resident
    values = gate[layer, :, columns], up[layer, :, columns], down[layer, columns, :]
    found.append(tuple(map(Matrix, values, scales)))
  return found


def _scales(refs: tuple, layer: Any, first: Any, columns: int) -> tuple[tuple, tuple, tuple]:
  """For each matrix the scales of its groups, of `columns` columns of the feed-forward from `first` on."""
  if not refs:
    return (), (), ()
  gate, up, down = refs
  groups = range(columns // GROUP)
  before = first // GROUP
  inputs = pl.ds(pl.multiple_of(first, LANES), columns)
  of_columns = (tuple(ref[layer, pl.ds(before + g, 1), :] for g in groups) for ref in (gate, up))
  of_lines = tuple(down[layer, pl.ds(g, 1), inputs] for g in range(down.shape[1]))
  return *of_columns, of_lines


def dot(x: jax.Array, matrix: Matrix, dtype: Any) -> jax.Array:
  """x [R, I] times a block, float32 [R, O], with factors rounded to `dtype`."""
  if not matrix.scales:
    return product(x, matrix.values)
  parts = []
  for group, scale in enumerate(matrix.scales):
    outputs = matrix.values[:, group * GROUP : (group + 1) * GROUP]
    parts.append(product(x * scale, outputs.astype(dtype)))
  return jnp.concatenate(parts, axis=1)


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
  """x [R, I], rounded to the weight's type, times a weight [I, O], in float32."""
  precision = jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None
  return jnp.dot(x.astype(weight.dtype), weight, preferred_element_type=jnp.float32, precision=precision)
