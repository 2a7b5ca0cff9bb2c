"""DPM-Solver++ of second order, multistep (arXiv 2211.01095), with a fixed number of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vibevoice.diffusion.schedule import Schedule


def solve(velocity: Callable[[jax.Array, Any], jax.Array], noise: jax.Array, schedule: Schedule, inputs: Any):
  """The latents that `noise` [rows, C] flows to, in its dtype.

  velocity(x, input): v of the noisy latents x at one step. inputs: one `input` for each step, on a leading axis.
  Arithmetic is float32; the sample is rounded to the dtype of `noise` after each step, as in the published code.
  """

  def step(carry, per_step):
    x, previous = carry
    at, given = per_step
    v = velocity(x, given).astype(jnp.float32)
    x32 = x.astype(jnp.float32)
    x0 = at.alpha * x32 - at.sigma * v
    extrapolated = x0 + at.slope * (x0 - previous)
    following = at.decay * x32 + at.gain * extrapolated
    return (following.astype(x.dtype), x0), None

  no_history = jnp.zeros(noise.shape, jnp.float32)
  (latents, _), _ = jax.lax.scan(step, (noise, no_history), (schedule, inputs))
  return latents
