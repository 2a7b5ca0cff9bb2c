"""Loudness as speech models want it."""

import numpy as np

SPEECH_DBFS = -25.0
EPSILON = 1e-6


def at_loudness(samples: np.ndarray, dbfs: float = SPEECH_DBFS) -> np.ndarray:
  """Samples [n] scaled to a root mean square of `dbfs` decibels of full scale, then to a peak of 1 where it is above 1.

  float32, as VibeVoice's processor does it. Silence stays silence.
  """
  x = np.asarray(samples, np.float32)
  if not x.size:
    return x
  rms = np.sqrt(np.mean(np.square(x)))
  scaled = x * np.float32(10 ** (dbfs / 20) / (rms + EPSILON))
  peak = np.abs(scaled).max()
  if peak > 1:
    return scaled / (peak + np.float32(EPSILON))
  return scaled
