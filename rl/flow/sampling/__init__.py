"""Sampling of rectified flows: schedules, deterministic and stochastic steps, and the density of a stochastic step."""

from rl.flow.sampling.paths import Path, sample
from rl.flow.sampling.schedule import Schedule, dynamic_shift, shifted, window
from rl.flow.sampling.steps import Noise, Step, deviations, divergence, euler, log_prob, moments, normalised_log_ratio

__all__ = [
  'Noise',
  'Path',
  'Schedule',
  'Step',
  'deviations',
  'divergence',
  'dynamic_shift',
  'euler',
  'log_prob',
  'moments',
  'normalised_log_ratio',
  'sample',
  'shifted',
  'window',
]
