"""DPM-Solver++ of second order, multistep (arXiv 2211.01095), with a fixed number of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def advance(at: Any, x: jax.Array, previous: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(next sample in x's dtype, x0), [R, C] each, after one step (DPM-Solver++, arXiv 2211.01095, algorithm 2).

  x, velocity, previous: [R, C], the sample, its velocity and the x0 of the step before. at: coefficients of the step.
  Arithmetic is float32 or wider; the sample is rounded to its dtype after each step, as in the published code.
  """
  wide = jnp.promote_types(x.dtype, jnp.float32)
  sample = x.astype(wide)
  x0 = at.alpha * sample - at.sigma * velocity.astype(wide)
  extrapolated = x0 + at.slope * (x0 - previous)
  following = at.decay * sample + at.gain * extrapolated
  return following.astype(x.dtype), x0


def solve(velocity: Callable[[jax.Array, Any], jax.Array], noise: jax.Array, schedule: Any, inputs: Any) -> jax.Array:
  """The latents that `noise` [R, C] flows to, in its dtype.

  velocity(x, input): v of the noisy latents x at one step. schedule: the coefficients of `Steps`, float32 [N] each.
  inputs: one `input` for each step, on a leading axis.
  """

  def step(carry, per_step):
    x, previous = carry
    at, given = per_step
    return advance(at, x, previous, velocity(x, given)), None

  no_history = jnp.zeros(noise.shape, jnp.promote_types(noise.dtype, jnp.float32))
  (latents, _), _ = jax.lax.scan(step, (noise, no_history), (schedule, inputs))
  return latents
