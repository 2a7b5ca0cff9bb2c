"""From noise to data along a schedule, with the log-probability of each stochastic step.

R rows   T steps   … the axes of a latent
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rl.flow.sampling.schedule import Schedule
from rl.flow.sampling.steps import Noise, Step, euler, log_prob, moments

Velocity = Callable[[jax.Array, jax.Array], jax.Array]  # (latents [R, …], times [R]) -> velocities [R, …]


@struct.dataclass
class Path:
  """states: float32 [T + 1, R, …], from noise on. logp, mean: [T, R] and [T, R, …] of each step, 0 and the next state
  where it is deterministic. clean: [R, …], the data that the last step predicts, x − σ·v.
  """

  states: Any
  logp: Any
  mean: Any
  clean: Any


def sample(
  velocity: Velocity,
  x: jax.Array,
  schedule: Schedule,
  *,
  noise: Noise | None = None,
  keys: jax.Array | None = None,
  stochastic: jax.Array | None = None,
) -> Path:
  """Latents x [R, …] of pure noise, followed through all steps of the schedule.

  noise: of stochastic steps; None: every step is deterministic. keys: [R], one for each row, needed with noise: what a
  row adds depends on its key and the step alone. stochastic: bool [T], the steps that add noise; None: all.
  Raises ValueError for noise without keys.
  """
  if noise is not None and keys is None:
    raise ValueError('a stochastic sampler needs a key for each row')
  rows = x.shape[0]
  levels = jnp.asarray(schedule.levels)
  steps = schedule.steps
  chosen = jnp.full(steps, noise is not None) if stochastic is None else jnp.asarray(stochastic)

  def advance(x, now):
    index, time, adds = now
    step = Step.at(levels, jnp.full(rows, index))
    v = velocity(x, jnp.full(rows, time)).astype(jnp.float32)
    sure = euler(x, v, step)
    clean = x - step.sigma[0] * v
    if noise is None:
      return sure, (x, jnp.zeros(rows), sure, clean)
    mean, deviation = moments(x, v, step, noise)
    shape = x.shape[1:]
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, index), shape)
    drawn = jax.vmap(draw)(keys)
    following = mean + deviation.reshape(-1, *(1,) * (x.ndim - 1)) * drawn
    logp = log_prob(following, mean, deviation)
    following, mean = (jnp.where(adds, value, sure) for value in (following, mean))
    return following, (x, jnp.where(adds, logp, 0.0), mean, clean)

  x = x.astype(jnp.float32)
  last, (states, logp, means, cleans) = jax.lax.scan(
    advance, x, (jnp.arange(steps), jnp.asarray(schedule.times), chosen)
  )
  return Path(states=jnp.concatenate([states, last[None]]), logp=logp, mean=means, clean=cleans[-1])
