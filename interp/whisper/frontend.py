"""Log-mel frames as in Whisper's training (arXiv 2212.04356, section 2.2)."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from core.audio.spectra import mel_filters, power_spectrum
from interp.whisper.config import HOP, RATE

SIZE = 400  # samples of the Fourier transform and its window
FLOOR = 1e-10
RANGE = 8.0  # decades below the loudest value
BLOCK = 30 * RATE  # samples whose spectra are computed at once
PAST = 5  # frames that a block shares with its neighbours: their samples hold more than a window


@functools.partial(jax.jit, static_argnames='mels')
def _log_power(samples: jax.Array, mels: int) -> jax.Array:
  """log10 of mel powers, float32 [..., n / hop, mels], of samples [..., n]; the last of 1 + n / hop is left out."""
  power = power_spectrum(samples, size=SIZE, hop=HOP)
  power = power[..., :-1, :]
  filters = jnp.asarray(mel_filters(mels, rate=RATE, size=SIZE))
  mel_power = power @ filters.T
  return jnp.log10(jnp.maximum(mel_power, FLOOR))


def log_power(samples: np.ndarray, mels: int) -> np.ndarray:
  """log10 of mel powers, float32 [n / 160, mels], of samples [n], n a multiple of 160, reflected at both ends."""
  samples = np.asarray(samples, np.float32)
  return np.asarray(_log_power(samples, mels))


def log_powers(blocks: Iterable[np.ndarray], mels: int) -> Iterator[np.ndarray]:
  """`log_power` of a recording of any length, as arrays of 30 s: float32 [3000, mels] of the samples in `blocks`.

  Reflected at the start; silence follows the end and fills the last array. Memory is that of a block and 30 s.
  """
  shared = PAST * HOP
  size = shared + BLOCK + shared
  silence = np.zeros(2 * shared, np.float32)
  held = np.zeros(0, np.float32)
  started = False
  for block in itertools.chain(blocks, [silence]):
    held = np.concatenate([held, block])
    if not started and len(held) > shared:
      reflection = held[shared:0:-1]
      held = np.concatenate([reflection, held])
      started = True
    while started and len(held) >= size:
      yield _inner(held[:size], mels)
      held = held[BLOCK:]
  while len(held) > shared:
    missing = max(size - len(held), 0)
    padded = np.pad(held, (0, missing))
    yield _inner(padded[:size], mels)
    held = held[BLOCK:]


def _inner(samples: np.ndarray, mels: int) -> np.ndarray:
  """log10 of mel powers without those of the samples shared with the neighbours, which see a reflection."""
  frames = np.asarray(_log_power(samples, mels))
  return frames[PAST : PAST + BLOCK // HOP]


def scaled(logs: np.ndarray, loudest: float | None = None) -> np.ndarray:
  """The model's input of log10 mel powers: no more than 8 decades below `loudest`, which is their maximum by default.

  OpenAI's `transcribe` takes the maximum of the whole recording, transformers that of each window.
  """
  logs = np.asarray(logs, np.float32)
  if loudest is None:
    loudest = logs.max()
  floor = np.float32(loudest) - np.float32(RANGE)
  bounded = np.maximum(logs, floor)
  return (bounded + 4) / 4


def log_mel(samples: np.ndarray, mels: int, *, length: int) -> np.ndarray:
  """float32 [length / 160, mels] of one window of samples [n], cut or padded with zeros to `length` samples."""
  samples = np.asarray(samples, np.float32)
  samples = samples[:length]
  padded = np.pad(samples, (0, length - len(samples)))
  return scaled(log_power(padded, mels))


def log_mels(samples: jax.Array, mels: int) -> jax.Array:
  """`log_mel` of windows [B, n] at once, float32 [B, n / 160, mels], n a multiple of 160; it can be traced."""
  logs = _log_power(samples, mels)
  loudest = logs.max((1, 2), keepdims=True)
  bounded = jnp.maximum(logs, loudest - RANGE)
  return (bounded + 4) / 4
