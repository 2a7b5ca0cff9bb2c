"""The definition, in the published order: at every step each branch is modulated anew, and reads all weights."""

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
    u = layers.layer(u, block, layers.modulate(active, block.modulation), eps)
  return layers.project(u, weights, layers.modulate(active, weights.modulation), eps)


def run(
  weights: Params, noise: jax.Array, condition: jax.Array, steps: Steps, guidance: Guidance | None, *, eps: float
) -> jax.Array:
  """As `kernels.diffusion_head`."""

  def at_step(x: jax.Array, time: jax.Array) -> jax.Array:
    positive = velocity(weights, x, condition @ weights.condition + time, eps)
    if guidance is None:
      return positive
    negative = velocity(weights, x, guidance.negative @ weights.condition + time, eps)
    return layers.guided(jnp.concatenate([positive, negative]), guidance.scale)

  return solve(at_step, noise, steps.replace(time=None), steps.time)
