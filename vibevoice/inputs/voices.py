"""Voice prompts: recordings of the speakers, as the acoustic tokenizer wants them."""

import os
from typing import Any

import numpy as np

from core import audio
from vibevoice.config import SAMPLE_RATE, Config

LOWEST_RATE = 16_000  # Hz of a file: the model would copy the dull sound of a telephone
LONGEST = 600.0  # seconds: more than any prompt needs, and thousands of positions
SILENCE = 1e-4  # root mean square, -80 dBFS


def prepare(voice: Any, config: Config, *, name: str = 'voice') -> np.ndarray:
  """A clip float32 [samples], mono, 24 kHz, at -25 dBFS, of a file or of such samples at any loudness.

  name: of the voice in error messages. Raises OSError for a file that cannot be opened, and ValueError for one that is
  not a recording, has a rate below 16 kHz or is longer than ten minutes, and for samples that are not one channel of
  numbers, not finite, silent, or shorter than a frame.
  """
  if isinstance(voice, (str, os.PathLike)):
    name = os.fspath(voice)
    samples = _read(name)
  else:
    samples = _checked(voice, name)
  if len(samples) < config.acoustic.hop:
    raise ValueError(
      f'{name}: {len(samples)} samples at 24 kHz; expected a few seconds, a frame of {config.acoustic.hop} at least'
    )
  loudness = float(np.sqrt(np.mean(np.square(samples))))
  if loudness < SILENCE:
    raise ValueError(f'{name}: silence (root mean square {loudness:.1e}); expected speech')
  return audio.at_loudness(samples)


def _read(path: str) -> np.ndarray:
  with audio.open_recording(path) as recording:
    if recording.rate < LOWEST_RATE:
      raise ValueError(f'{path}: {recording.rate} Hz; expected at least {LOWEST_RATE}')
    _check_length(path, recording.seconds)
  return audio.load(path, SAMPLE_RATE)


def _checked(samples: Any, name: str) -> np.ndarray:
  array = np.asarray(samples)
  if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f'{name}: {array.dtype} of shape {array.shape}; expected one channel of float [samples] in -1..1')
  audio.check(array, name)
  _check_length(name, len(array) / SAMPLE_RATE)
  return array.astype(np.float32)


def _check_length(name: str, seconds: float) -> None:
  if seconds > LONGEST:
    raise ValueError(f'{name}: {seconds / 60:.0f} minutes; expected a voice prompt of at most {LONGEST / 60:.0f}')
