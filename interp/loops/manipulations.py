"""What is done to a recording so that a recogniser no longer understands it.

n samples, float32
"""

import numpy as np

from core.audio import to_rate
from interp.whisper.config import RATE

SIZE = 1024  # samples of a frame of the phase vocoder
HOP = SIZE // 4
PIECE = 0.4  # seconds of a splice
SEMITONES = 5


def unchanged(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The recording, samples [n], as it is."""
  return x


def backwards(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Samples [n] from the last to the first."""
  return x[::-1]


def slow(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Twice as long at the same pitch."""
  return stretched(x, 2.0)


def fast(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Half as long at the same pitch."""
  return stretched(x, 0.5)


def high(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Five semitones higher at the same length."""
  ratio = 2 ** (SEMITONES / 12)
  longer = stretched(x, ratio)
  return to_rate(longer, round(RATE * ratio), RATE)


def noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """With white noise of the same power."""
  return x + rng.standard_normal(len(x)).astype(np.float32) * x.std()


def spliced(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Cut into pieces of 0.4 s in random order."""
  size = int(PIECE * RATE)
  pieces = [x[at : at + size] for at in range(0, len(x), size)]
  return np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])


MANIPULATIONS = {
  'unchanged': unchanged,
  'backwards': backwards,
  'slow': slow,
  'fast': fast,
  'high': high,
  'noise': noise,
  'spliced': spliced,
}


def stretched(x: np.ndarray, factor: float) -> np.ndarray:
  """`factor` times as long at the same pitch, by a phase vocoder (Flanagan and Golden 1966), after a fade-in."""
  window = np.hanning(SIZE + 1)[:-1]
  padded = np.pad(np.asarray(x, np.float64), (0, 2 * SIZE))
  count = (len(padded) - SIZE) // HOP
  frames = np.stack([padded[i * HOP : i * HOP + SIZE] for i in range(count)]) * window
  spectra = np.fft.rfft(frames)
  at = np.arange(0, count - 1, 1 / factor)
  left = at.astype(int)
  share = (at - left)[:, None]
  size = (1 - share) * np.abs(spectra[left]) + share * np.abs(spectra[left + 1])
  # Each bin turns by what it turned between the two frames of the recording that are nearest.
  turn = np.angle(spectra[left + 1] * np.conj(spectra[left]))
  phase = np.angle(spectra[:1]) + np.cumsum(turn, 0) - turn
  pieces = np.fft.irfft(size * np.exp(1j * phase)) * window
  out = np.zeros(len(pieces) * HOP + SIZE)
  for i, piece in enumerate(pieces):
    out[i * HOP : i * HOP + SIZE] += piece
  gain = (window**2).reshape(-1, HOP).sum(0).mean()
  return (out / gain)[: round(len(x) * factor)].astype(np.float32)
