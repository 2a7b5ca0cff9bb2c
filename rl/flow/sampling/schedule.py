"""Noise levels of a sampler: σ_0 = 1 is pure noise, σ_T = 0 is data.

T steps   t in [0, 1], the time that the network is given: σ, or σ rounded as the published trainers round it
"""

import dataclasses
import math

import numpy as np

TICKS = 1000  # of the rounded times
ROUNDING = 1e-9  # a time that is a whole tick up to float64 rounding is that tick
# FLUX.1 interpolates the log shift linearly in the number of patches, through these two points.
FEWEST_PATCHES = 256
LEAST_LOG_SHIFT = 0.5
MOST_PATCHES = 4096
MOST_LOG_SHIFT = 1.15


@dataclasses.dataclass(frozen=True)
class Schedule:
  """sigmas: T + 1 noise levels, falling from 1 to 0. rounded: the network is given whole thousandths, rounded down."""

  sigmas: tuple[float, ...]
  rounded: bool = True

  def __post_init__(self):
    levels = np.asarray(self.sigmas, np.float64)
    is_long = len(levels) > 2
    falls = np.all(np.diff(levels) < 0)
    if not is_long or not falls or levels[0] != 1 or levels[-1] != 0:
      raise ValueError(f'sigmas={self.sigmas!r:.80}: expected at least 3 noise levels that fall from 1 to 0')

  @property
  def steps(self) -> int:
    """T."""
    return len(self.sigmas) - 1

  @property
  def levels(self) -> np.ndarray:
    """float32 [T + 1]."""
    return np.asarray(self.sigmas, np.float32)

  @property
  def times(self) -> np.ndarray:
    """float32 [T]: what the network is given at each step."""
    times = np.asarray(self.sigmas[:-1], np.float64)
    if self.rounded:
      ticks = np.floor(TICKS * times + ROUNDING)
      times = ticks / TICKS
    return times.astype(np.float32)


def shifted(steps: int, shift: float = 3.0, *, rounded: bool = True) -> Schedule:
  """σ = s·u/(1 + (s − 1)·u) of u from 1 to 0 in `steps` equal steps (SD3, arXiv 2403.03206 eq. 23).

  Raises ValueError for fewer than 2 steps or a shift that is not positive.
  """
  if steps < 2 or not 0 < shift < math.inf:
    raise ValueError(f'steps={steps}, shift={shift}: expected at least 2 steps and a positive shift')
  u = np.linspace(1, 0, steps + 1)
  return Schedule(_shift(u, shift), rounded)


def _shift(u: np.ndarray, shift: float) -> tuple[float, ...]:
  """Noise levels s·u/(s·u + (1 − u)): in this form they are exactly 1 where u is 1."""
  scaled = shift * u
  sigmas = scaled / (scaled + (1 - u))
  return tuple(sigmas.tolist())


def dynamic_shift(steps: int, patches: int) -> Schedule:
  """The schedule of FLUX.1's public pipeline: the shift grows with the number of image patches.

  μ = 0.5 + (patches − 256)/(4096 − 256)·(1.15 − 0.5); σ = e^μ/(e^μ + 1/u − 1), u from 1 to 1/steps; then 0.
  """
  share = (patches - FEWEST_PATCHES) / (MOST_PATCHES - FEWEST_PATCHES)
  mu = LEAST_LOG_SHIFT + share * (MOST_LOG_SHIFT - LEAST_LOG_SHIFT)
  u = np.linspace(1, 1 / steps, steps)
  sigmas = _shift(u, math.exp(mu))
  return Schedule((*sigmas, 0.0), rounded=False)


def window(steps: int, size: int, iteration: int, *, every: int = 25, stride: int = 1) -> np.ndarray:
  """bool [T]: the stochastic steps of a mixed ODE–SDE sampler at a training iteration (MixGRPO, arXiv 2507.21802).

  The window of `size` steps starts at step 0 and moves by `stride` every `every` iterations, until it reaches the end.
  Raises ValueError for a size outside 1 … T − 1: the last step is never trained.
  """
  if not 1 <= size < steps:
    raise ValueError(f'window={size}: expected 1 to {steps - 1} of {steps} steps')
  moves = iteration // every
  latest = steps - 1 - size
  start = min(stride * moves, latest)
  inside = np.zeros(steps, bool)
  inside[start : start + size] = True
  return inside
