"""The definition, in the published order: at every step each branch computes its modulation and reads all weights."""

import jax
import jax.numpy as jnp

from kernels.head import layers
from kernels.head.arguments import Guidance, Params, Steps
from kernels.head.solver import solve


def velocity(weights: Params, noisy: jax.Array, modulator: jax.Array, eps: float) -> jax.Array:
  """The velocity [R, C] of noisy latents [R, C]; modulator [R, D]: projected condition plus embedded time."""
  active = jax.nn.silu(modulator)
  u = noisy @ weights.noise
  for block in layers.blocks(weights):
    vectors = layers.modulate(active, block.modulation)
    u = layers.layer(u, block, vectors, eps)
  last = layers.modulate(active, weights.modulation)
  return layers.project(u, weights, last, eps)


def run(
  weights: Params, noise: jax.Array, condition: jax.Array, steps: Steps, guidance: Guidance | None, *, eps: float
) -> jax.Array:
  """As `kernels.diffusion_head`."""

  def at_step(x: jax.Array, time: jax.Array) -> jax.Array:
    positive = velocity(weights, x, condition @ weights.condition + time, eps)
    if guidance is None:
      return positive
    unconditional = guidance.negative @ weights.condition
    negative = velocity(weights, x, unconditional + time, eps)
    both = jnp.concatenate([positive, negative])
    return layers.guided(both, guidance.scale)

  return solve(at_step, noise, steps.replace(time=None), steps.time)
