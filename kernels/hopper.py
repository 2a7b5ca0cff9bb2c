"""What the kernels for Hopper GPUs share: their limits, and tiles of shared memory."""

from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels import chips

ROWS = 64  # of a product's left factor: the least of wgmma, and enough for a decoding step
SMS = 132  # streaming multiprocessors of an H100 or H200: a grid has at least as many blocks where it can
SWIZZLE = 128  # bytes of a line of a tile
TYPES = (jnp.bfloat16, jnp.float16)

# Layouts of registers are inferred: no kernel names one.
PARAMS = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup)


def refuse(*dtypes) -> str | None:
  """Why a kernel cannot multiply arrays of these types under the present mesh, or None."""
  if dtypes[0] not in TYPES or any(dtype != dtypes[0] for dtype in dtypes):
    return f'the GPU kernel takes one type, bfloat16 or float16, got {", ".join(str(dtype) for dtype in dtypes)}'
  return chips.refuse_partitioning()


def tile(shape: tuple[int, ...], dtype) -> Any:
  """Shared memory [..., lines, columns] in the layout that wgmma and TMA read."""
  columns = SWIZZLE // jnp.dtype(dtype).itemsize
  transforms = plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(SWIZZLE)
  return plgpu.SMEM(shape, dtype, transforms=transforms)
