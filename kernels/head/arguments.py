"""What the diffusion head reads: weights, solver steps and guidance, as trees of arrays.

N solver steps   R rows   C latent   D width   F feed-forward   S sinusoids
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from kernels import pieces
from kernels.int8 import to_int8


@struct.dataclass(kw_only=True)
class Block:
  """Weights of one layer."""

  norm: Any  # [D]
  modulation: Any  # [D, 3, D]: to shift, scale and gate
  gate: Any  # [D, F]; this and the next two are arrays, or `Int8` with scales along the outputs
  up: Any
  down: Any  # [F, D]


MATRICES = ('gate', 'up', 'down')  # of a block: the weights that every solver step must read


@struct.dataclass(kw_only=True)
class Params:
  """Weights of the head."""

  noise: Any  # [C, D]
  condition: Any  # [D, D]
  time_in: Any  # [S, D]
  time_out: Any  # [D, D]
  blocks: Any  # Block, leaves stacked on a layer axis, or a tuple of Blocks
  modulation: Any  # [D, 2, D]: to the final shift and scale
  out: Any  # [D, C]


def quantised(weights: Params) -> Params:
  """The weights with the layers' feed-forwards as `kernels.int8.Int8`: half the bytes of bfloat16 at every step."""
  blocks = jax.tree.map(_block_quantised, weights.blocks, is_leaf=lambda node: isinstance(node, Block))
  return weights.replace(blocks=blocks)


def _block_quantised(block: Block) -> Block:
  return block.replace(**{name: to_int8(getattr(block, name)) for name in MATRICES})


def streamed(weights: Params) -> Params:
  """The weights, layers as a tuple, with those that are read at every step as `kernels.pieces.Streamed`."""
  blocks = tuple(_block_streamed(block) for block in weights.blocks)
  return weights.replace(blocks=blocks, modulation=pieces.streamed(weights.modulation))


def _block_streamed(block: Block) -> Block:
  names = ('modulation', *MATRICES)
  return block.replace(**{name: pieces.streamed(getattr(block, name)) for name in names})


@struct.dataclass(kw_only=True)
class Steps:
  """What the solver needs at each of its N steps.

  time: [N, D], embedded timesteps; they depend on the weights and on nothing else, so they are computed once a load.
  The others, float32 [N]: the data prediction is x0 = alpha x - sigma v, and the next sample is
  decay x + gain (x0 + slope (x0 - the previous x0)): DPM-Solver++ (arXiv 2211.01095), algorithm 2, multistep.
  """

  time: Any
  alpha: Any
  sigma: Any
  decay: Any
  gain: Any
  slope: Any  # 0 where a step is of first order


@struct.dataclass
class Guidance:
  """Classifier-free guidance (arXiv 2207.12598): v = v_negative + scale (v - v_negative).

  scale: float32, one number or one a row [R]. negative: hidden states [R, D] of the context without script and voices.
  """

  scale: jax.Array
  negative: jax.Array


def both_branches(x: jax.Array, other: jax.Array, guidance: Guidance | None) -> jax.Array:
  """x [R, D], or with guidance [2R, D], x and then `other`: both branches in one batch read the weights once."""
  if guidance is None:
    return x
  return jnp.concatenate([x, other])
