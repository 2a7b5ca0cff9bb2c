"""One step of a rectified flow, deterministic or stochastic, and its Gaussian density.

x_t = (1 − t)·x_0 + t·x_1 with data x_0 and noise x_1; the network predicts v = x_1 − x_0. All in float32.

R rows, the leading axis; … the axes of a latent
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from core.launch.fields import field

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Noise:
  """How much noise a stochastic step adds."""

  form: Literal['flow', 'dance'] = field('flow', 'noise that keeps the marginals (flow), or of constant rate (dance)')
  level: float = field(0.7, 'scale of the noise: 0.7 is usual for flow, 0.3 for dance')

  def __post_init__(self):
    if self.form not in FORMS:
      raise ValueError(f'form={self.form!r}: expected one of {", ".join(FORMS)}')
    if not 0 < self.level < math.inf:
      raise ValueError(f'level={self.level}: expected a positive number')


@struct.dataclass
class Step:
  """Where steps start and end; each float32 [R].

  second: the schedule's second level, which replaces σ = 1 where 1 − σ is a divisor.
  """

  sigma: jax.Array
  next: jax.Array
  second: jax.Array

  @classmethod
  def at(cls, levels: jax.Array, index: jax.Array) -> 'Step':
    """Steps `index` int [R] of a schedule's levels [T + 1]."""
    levels = jnp.asarray(levels)
    second = jnp.full(index.shape, levels[1])
    following = index + 1
    return cls(sigma=levels[index], next=levels[following], second=second)

  @property
  def change(self) -> jax.Array:
    """float32 [R]: dσ, negative."""
    return self.next - self.sigma


def deviations(step: Step, noise: Noise) -> jax.Array:
  """float32 [R]: the standard deviation of the noise that each step adds."""
  length = -step.change
  variance = _rate(step, noise) * length
  return jnp.sqrt(variance)


def _rate(step: Step, noise: Noise) -> jax.Array:
  """w², what the noise adds to the variance in a unit of σ: a²·σ/(1 − σ) of the flow form, η² of the dance form."""
  scale = noise.level**2
  if noise.form == 'dance':
    return jnp.full_like(step.sigma, scale)
  is_one = step.sigma == 1
  below_one = jnp.where(is_one, step.second, step.sigma)
  above_data = 1 - below_one
  return scale * step.sigma / above_data


def _flow_mean(x, v, sigma, change, rate):
  """x + [v + w²/(2σ)·(x + (1 − σ)·v)]·dσ (Flow-GRPO, arXiv 2505.05470 eq. 9)."""
  noise = x + (1 - sigma) * v
  correction = rate / (2 * sigma) * noise
  drift = v + correction
  return x + drift * change


def _dance_mean(x, v, sigma, change, rate):
  """x + v·dσ − ½·η²·score·dσ (DanceGRPO, arXiv 2505.07818)."""
  data = x - sigma * v
  noise = x - (1 - sigma) * data
  score = -noise / sigma**2
  correction = 0.5 * rate * score
  drift = v - correction
  return x + drift * change


FORMS = {'flow': _flow_mean, 'dance': _dance_mean}


def moments(x: jax.Array, v: jax.Array, step: Step, noise: Noise) -> tuple[jax.Array, jax.Array]:
  """(mean [R, …], standard deviation [R]) of the next latent, given latent and velocity [R, …]."""
  x = x.astype(jnp.float32)
  v = v.astype(jnp.float32)
  rate = _rate(step, noise)
  scalars = (step.sigma, step.change, rate)
  sigma, change, rate = (_over_entries(scalar, x) for scalar in scalars)
  mean_of = FORMS[noise.form]
  mean = mean_of(x, v, sigma, change, rate)
  return mean, deviations(step, noise)


def euler(x: jax.Array, v: jax.Array, step: Step) -> jax.Array:
  """The deterministic step x + v·dσ, float32 [R, …]."""
  x = x.astype(jnp.float32)
  v = v.astype(jnp.float32)
  change = _over_entries(step.change, x)
  return x + v * change


def log_prob(following: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """float32 [R]: the MEAN over a latent's entries of ln N(following; mean, deviation²).

  The mean, not the sum: it keeps log-ratios near 1e-4, which the clip range of flow policies is made for. The ratio of
  two of them is the geometric mean of the entries' ratios.
  """
  spread = _over_entries(deviation, mean)
  noise = (following - mean) / spread
  squares = _entry_mean(jnp.square(noise))
  norm = jnp.log(deviation)
  return -0.5 * squares - norm - LOG_ROOT_2PI


def normalised_log_ratio(following: jax.Array, old: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
  """float32 [R]: mean(ε·δ) with ε = (following − old)/deviation and δ = mean − old (GRPO-Guard, arXiv 2510.22319).

  Equal to deviation·[ln p_mean − ln p_old + mean(δ²)/(2·deviation²)], without its cancellation: the log-ratio without
  its negative bias, scaled so that all steps have a similar spread.
  """
  spread = _over_entries(deviation, old)
  noise = (following - old) / spread
  moved = mean - old
  return _entry_mean(noise * moved)


def divergence(mean: jax.Array, other: jax.Array, deviation: jax.Array) -> jax.Array:
  """float32 [R]: KL of two steps' Gaussians by entry, mean((mean − other)²)/(2·deviation²)."""
  squares = jnp.square(mean - other)
  variance = jnp.square(deviation)
  return _entry_mean(squares) / (2 * variance)


def _over_entries(values: jax.Array, like: jax.Array) -> jax.Array:
  """[R] values that broadcast over [R, …]."""
  entries = (1,) * (like.ndim - 1)
  return values.reshape(-1, *entries)


def _entry_mean(values: jax.Array) -> jax.Array:
  """[R]: the mean over all axes but the first."""
  entries = values.reshape(len(values), -1)
  return jnp.mean(entries, -1)
