"""The noise schedule: how much of a noisy latent is signal, in training and at each step of the solver.

x_t = √ᾱ_t y + √(1 - ᾱ_t) ε, with the cosine ᾱ of arXiv 2102.09672. The model predicts v = √ᾱ_t ε - √(1 - ᾱ_t) y.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

TRAIN_STEPS = 1000
MAX_BETA = 0.999  # without this cap the last ᾱ would be 0
OFFSET = 0.008  # of the cosine, arXiv 2102.09672 eq. 17


@functools.cache
def betas() -> np.ndarray:
  """β_t, float32 [1000]: the share of variance replaced by noise at each training step."""
  edges = np.arange(TRAIN_STEPS + 1) / TRAIN_STEPS
  shifted = (edges + OFFSET) / (1 + OFFSET)
  signal = np.cos(shifted * np.pi / 2) ** 2
  ratio = signal[1:] / signal[:-1]
  beta = np.minimum(1 - ratio, MAX_BETA)
  return beta.astype(np.float32)


@functools.cache
def signal_levels() -> np.ndarray:
  """ᾱ_t, float32 [1000]: the cumulative product of 1 - β, which differs from the closed form because of the cap."""
  kept = 1 - betas()
  # The published values are products in float64, rounded once, as PyTorch accumulates them.
  products = np.cumprod(kept, dtype=np.float64)
  return products.astype(np.float32)


def timesteps(steps: int) -> np.ndarray:
  """The training steps that a solver of `steps` visits, int64 [N], from 999 downwards.

  Raises ValueError unless 1 <= steps <= 999.
  """
  if not 1 <= steps < TRAIN_STEPS:
    raise ValueError(f'steps={steps}: expected 1 to {TRAIN_STEPS - 1} solver steps')
  grid = np.linspace(0, TRAIN_STEPS - 1, steps + 1)
  ascending = np.round(grid).astype(np.int64)  # half to even, as the published schedule
  return ascending[:0:-1]


def sigmas(steps: int) -> np.ndarray:
  """σ = √((1 - ᾱ)/ᾱ), the noise over the signal at each visited step and 0 at the end, float64 [N + 1]."""
  levels = signal_levels()[timesteps(steps)]
  level = levels.astype(np.float64)
  noise_over_signal = np.sqrt((1 - level) / level)
  return np.append(noise_over_signal, 0.0)


@struct.dataclass
class Schedule:
  """What the solver needs at each of its N steps, float32 [N].

  The data prediction is x0 = alpha x - sigma v, and the next sample is
  decay x + gain (x0 + slope (x0 - the previous x0)): DPM-Solver++ (arXiv 2211.01095), algorithm 2, multistep.
  """

  timesteps: jax.Array
  alpha: jax.Array
  sigma: jax.Array
  decay: jax.Array
  gain: jax.Array
  slope: jax.Array  # 0 where a step is of first order

  @classmethod
  def of(cls, steps: int) -> 'Schedule':
    """The schedule of `steps` solver steps. Raises ValueError unless 1 <= steps <= 999."""
    noise_over_signal = sigmas(steps)
    alpha = 1 / np.sqrt(1 + noise_over_signal**2)
    sigma = noise_over_signal * alpha
    # The last σ is 0, whose logarithm is not finite: that step returns x0, so decay 0, gain 1.
    log_snr = np.log(alpha[:-1]) - np.log(sigma[:-1])
    width = np.diff(log_snr)
    ratio = sigma[1:-1] / sigma[:-2]
    towards_data = -alpha[1:-1] * np.expm1(-width)
    schedule = cls(
      timesteps=timesteps(steps),
      alpha=alpha[:-1],
      sigma=sigma[:-1],
      decay=np.append(ratio, 0.0),
      gain=np.append(towards_data, 1.0),
      slope=_slopes(width),
    )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), schedule)


def _slopes(width: np.ndarray) -> np.ndarray:
  """1/(2r) of each step, r the previous step's width in log signal-to-noise over its own; 0 at both ends."""
  own = width[1:]
  previous = width[:-1]
  slopes = np.zeros(len(width) + 1)
  slopes[1:-1] = own / (2 * previous)
  return slopes
