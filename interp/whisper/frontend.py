"""Log-mel frames as Whisper was trained on them (arXiv 2212.04356, section 2.2)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.audio.spectra import mel_filters, power_spectrum
from interp.whisper.config import HOP, RATE

SIZE = 400  # samples of the Fourier transform and its window
FLOOR = 1e-10
RANGE = 8.0  # decades below the loudest value
BLOCK = 30 * RATE  # samples whose spectra are computed at once
PAST = 2 * SIZE  # samples that a block shares with its neighbours, at least half a window


@functools.partial(jax.jit, static_argnames='mels')
def _log_power(samples: jax.Array, mels: int) -> jax.Array:
  """log10 of mel powers, float32 [n / hop, mels], of samples [n]; the last of the 1 + n / hop frames is left out."""
  power = power_spectrum(samples, size=SIZE, hop=HOP)[:-1]
  filters = jnp.asarray(mel_filters(mels, rate=RATE, size=SIZE))
  return jnp.log10(jnp.maximum(power @ filters.T, FLOOR))


def log_power(samples: np.ndarray, mels: int) -> np.ndarray:
  """log10 of mel powers, float32 [n / 160, mels], of samples [n], n a multiple of 160, reflected at both ends.

  Computed in blocks of 30 s that overlap by more than a window, so hours of audio take little memory.
  """
  samples = np.asarray(samples, np.float32)
  lap = -(-PAST // HOP)  # frames
  frames = len(samples) // HOP
  step = BLOCK // HOP
  if frames <= step:
    return np.asarray(_log_power(samples, mels))
  pieces = []
  for start in range(0, frames, step):
    first = min(max(start - lap, 0), frames - step - 2 * lap) if frames > step + 2 * lap else 0
    last = min(first + step + 2 * lap, frames)
    block = np.asarray(_log_power(samples[first * HOP : last * HOP], mels))
    pieces.append(block[start - first : start - first + step])
  return np.concatenate(pieces)


def scaled(logs: np.ndarray, loudest: float | None = None) -> np.ndarray:
  """The model's input of log10 mel powers: no more than 8 decades below `loudest`, which is their maximum by default.

  OpenAI's `transcribe` takes the maximum of the whole recording, transformers that of each window.
  """
  logs = np.asarray(logs, np.float32)
  top = logs.max() if loudest is None else np.float32(loudest)
  return (np.maximum(logs, top - np.float32(RANGE)) + 4) / 4


def log_mel(samples: np.ndarray, mels: int, *, length: int) -> np.ndarray:
  """float32 [length / 160, mels] of one window of samples [n], cut or padded with zeros to `length` samples."""
  samples = np.asarray(samples, np.float32)[:length]
  padded = np.pad(samples, (0, length - len(samples)))
  return scaled(log_power(padded, mels))
