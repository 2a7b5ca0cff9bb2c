"""Latents from noise: `kernels.diffusion_head` with the weights of a model."""

import dataclasses
from typing import Any

import jax

import kernels
from core.params import Int8, dense, is_weight
from kernels.head.arguments import MATRICES, Block, Guidance, Params, Steps
from kernels.pieces import Streamed
from vibevoice.diffusion import head
from vibevoice.diffusion.schedule import Schedule


def solver_steps(weights: Params, count: int) -> Steps:
  """`count` solver steps with these weights' embeddings of their timesteps: compute it once, not once a frame.

  Raises ValueError unless 1 <= count <= 999.
  """
  schedule = Schedule.of(count)
  coefficients = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}
  timesteps = coefficients.pop('timesteps')
  return Steps(time=head.embed_time(weights, timesteps), **coefficients)


def diffusion_head(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  *,
  guidance: Guidance | None = None,
  eps: float = 1e-5,
) -> jax.Array:
  """Latents [R, C] from noise [R, C] of variance 1, given hidden states [R, D].

  LoRA weights, and int8 ones outside the feed-forwards, are folded. guidance=None skips the negative branch: half the
  work. Both branches see the same noisy latents.
  """
  return kernels.diffusion_head(_folded(weights), noise, condition, steps, guidance=guidance, eps=eps)


def _folded(weights: Params) -> Params:
  """The weights as plain arrays, but for those that the kernel reads in another form."""
  blocks = jax.tree.map(_block_folded, weights.blocks, is_leaf=lambda node: isinstance(node, Block))
  return _each_folded(weights.replace(blocks=())).replace(blocks=blocks)


def _block_folded(block: Block) -> Block:
  kept = {name: w for name in MATRICES if isinstance(w := getattr(block, name), Int8)}
  others = block.replace(**dict.fromkeys(kept))
  return _each_folded(others).replace(**kept)


def _each_folded(tree: Any) -> Any:
  return jax.tree.map(lambda w: w if isinstance(w, Streamed) else dense(w), tree, is_leaf=is_weight)
