"""Latents from noise: the head inside the solver, with classifier-free guidance (arXiv 2207.12598)."""

import jax
import jax.numpy as jnp
from flax import struct

from vibevoice.diffusion import head
from vibevoice.diffusion.schedule import Schedule
from vibevoice.diffusion.solver import solve


@struct.dataclass
class Guidance:
  """v = v_negative + scale (v - v_negative).

  scale: float32, one number or one a row [R]. negative: hidden states [R, D] of the context without script and voices.
  """

  scale: jax.Array
  negative: jax.Array


def diffusion_head(
  weights: head.Params,
  noise: jax.Array,
  condition: jax.Array,
  schedule: Schedule,
  *,
  guidance: Guidance | None = None,
  eps: float = 1e-5,
) -> jax.Array:
  """Latents [R, C] from noise [R, C] of variance 1, given hidden states [R, D].

  guidance=None skips the negative branch: half the work. Both branches see the same noisy latents.
  """
  # What does not change from step to step is computed once: the projected conditions and the embedded timesteps.
  conditions = condition
  if guidance is not None:
    conditions = jnp.concatenate([condition, guidance.negative])
  projected = head.project_condition(weights, conditions)
  times = head.embed_time(weights, schedule.timesteps)

  def velocity(x: jax.Array, time: jax.Array) -> jax.Array:
    if guidance is None:
      return head.denoise(weights, x, projected + time, eps)
    both = head.denoise(weights, jnp.concatenate([x, x]), projected + time, eps)
    guided, negative = jnp.split(both, 2)
    scale = jnp.asarray(guidance.scale, both.dtype).reshape(-1, 1)
    return negative + scale * (guided - negative)

  return solve(velocity, noise, schedule, times)
