"""Manipulations of a recording after which a recogniser no longer understands it.

n samples, float32
"""

import numpy as np

from core.audio import to_rate
from interp.whisper.config import RATE

SIZE = 1024  # samples of a frame of the phase vocoder
HOP = SIZE // 4
PIECE = 0.4  # seconds of a splice
SEMITONES = 5
MUFFLED = 500.0  # Hz, above which nothing is left
ECHOES = (0.5, 1.0, 1.5)  # seconds


def unchanged(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The recording, samples [n]."""
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
  white = rng.standard_normal(len(x)).astype(np.float32)
  return x + white * x.std()


def muffled(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Without frequencies above 500 Hz."""
  spectrum = np.fft.rfft(x)
  limit = round(MUFFLED * len(x) / RATE)
  spectrum[limit:] = 0
  return np.fft.irfft(spectrum, len(x))


def mirrored(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """With the spectrum upside down: f becomes 8000 Hz - f."""
  odd = np.arange(len(x)) % 2
  signs = 1 - 2 * odd
  return x * signs


def echoes(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """With three echoes as loud as the recording, half a second apart."""
  out = x.copy()
  for seconds in ECHOES:
    late = round(seconds * RATE)
    heard = max(len(x) - late, 0)
    out[late:] += x[:heard]
  return out / (1 + len(ECHOES))


def spliced(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Cut into pieces of 0.4 s in random order."""
  pieces = _pieces(x)
  order = rng.permutation(len(pieces))
  return np.concatenate([pieces[i] for i in order])


def turned(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Cut into pieces of 0.4 s, each backwards, in the order of the recording."""
  pieces = [piece[::-1] for piece in _pieces(x)]
  return np.concatenate(pieces)


def _pieces(x: np.ndarray) -> list[np.ndarray]:
  size = int(PIECE * RATE)
  return [x[at : at + size] for at in range(0, len(x), size)]


MANIPULATIONS = {
  'unchanged': unchanged,
  'backwards': backwards,
  'slow': slow,
  'fast': fast,
  'high': high,
  'noise': noise,
  'muffled': muffled,
  'mirrored': mirrored,
  'echoes': echoes,
  'spliced': spliced,
  'turned': turned,
}


def stretched(x: np.ndarray, factor: float) -> np.ndarray:
  """`factor` times as long at the same pitch, by a phase vocoder (Flanagan and Golden 1966), after a fade-in."""
  window = np.hanning(SIZE + 1)[:-1]
  spectra = np.fft.rfft(_frames(x) * window)
  changed = _at_other_speed(spectra, factor)
  frames = np.fft.irfft(changed) * window
  power = window**2
  gain = power.reshape(-1, HOP).sum(0).mean()  # of windows that overlap
  out = _overlapped(frames) / gain
  length = round(len(x) * factor)
  return out[:length].astype(np.float32)


def _frames(x: np.ndarray) -> np.ndarray:
  """Overlapping frames, float64 [F, SIZE], of samples followed by silence."""
  wide = np.asarray(x, np.float64)
  padded = np.pad(wide, (0, 2 * SIZE))
  count = (len(padded) - SIZE) // HOP
  starts = HOP * np.arange(count)
  index = starts[:, None] + np.arange(SIZE)
  return padded[index]


def _at_other_speed(spectra: np.ndarray, factor: float) -> np.ndarray:
  """Spectra of `factor` times as many frames: sizes are interpolated, phases advance at the recording's speed."""
  place = np.arange(0, len(spectra) - 1, 1 / factor)
  left = place.astype(int)
  before = spectra[left]
  after = spectra[left + 1]
  share = (place - left)[:, None]
  size = (1 - share) * np.abs(before) + share * np.abs(after)
  # The phase of each bin advances by the difference between the two nearest frames of the recording.
  advance = np.angle(after * np.conj(before))
  first = np.angle(spectra[:1])
  phase = first + np.cumsum(advance, 0) - advance
  return size * np.exp(1j * phase)


def _overlapped(frames: np.ndarray) -> np.ndarray:
  """The sum of frames that begin every HOP samples."""
  out = np.zeros(len(frames) * HOP + SIZE)
  for i, frame in enumerate(frames):
    start = i * HOP
    out[start : start + SIZE] += frame
  return out
