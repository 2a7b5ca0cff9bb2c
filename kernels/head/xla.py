"""The portable form: everything that does not depend on the noisy latents is computed once, before the solver loop.

N solver steps   R rows of both branches   C latent   D width
"""

import jax

from kernels.head import layers
from kernels.head.arguments import Guidance, Params, Steps, both_branches
from kernels.head.solver import solve


def modulators(weights: Params, condition: jax.Array, steps: Steps, guidance: Guidance | None) -> jax.Array:
  """SiLU of the projected conditions plus the embedded timesteps, [N, R, D]: of all steps and both branches."""
  negative = None if guidance is None else guidance.negative
  projected = both_branches(condition, negative, guidance) @ weights.condition
  return jax.nn.silu(projected + steps.time[:, None])


def run(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  guidance: Guidance | None,
  *,
  eps: float,
  feed_forward: layers.FeedForward = layers.feed_forward,
) -> jax.Array:
  """As `kernels.diffusion_head`; feed_forward: how a layer's is computed.

  The condition is fixed for a frame and the timesteps for a run, so the AdaLN weights are read once a frame instead of
  N times. The loop reads the other weights once a step for both branches.
  """
  active = modulators(weights, condition, steps, guidance)
  blocks = layers.blocks(weights)
  of_layers = tuple(layers.modulate(active, block.modulation) for block in blocks)
  of_output = layers.modulate(active, weights.modulation)

  def velocity(x: jax.Array, vectors: tuple) -> jax.Array:
    per_layer, last = vectors
    u = both_branches(x, x, guidance) @ weights.noise
    for block, given in zip(blocks, per_layer, strict=True):
      u = layers.layer(u, block, given, eps, feed_forward)
    v = layers.project(u, weights, last, eps)
    if guidance is None:
      return v
    return layers.guided(v, guidance.scale)

  return solve(velocity, noise, steps.replace(time=None), (of_layers, of_output))
