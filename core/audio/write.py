"""Recordings to wav files."""

import io
import os
import pathlib

import numpy as np

from core.files import store


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
  """Samples [n] in -1..1 as a 16-bit mono wav file; louder ones are clipped.

  Raises ValueError for samples that are not one finite channel.
  """
  import soundfile

  samples = np.asarray(samples, np.float32)
  if samples.ndim != 1 or not np.isfinite(samples).all():
    raise ValueError(f'samples of shape {samples.shape}: expected one channel of finite numbers')
  buffer = io.BytesIO()
  soundfile.write(buffer, np.clip(samples, -1, 1), rate, format='WAV', subtype='PCM_16')
  return buffer.getvalue()


def save_wav(path: str | os.PathLike, samples: np.ndarray, rate: int) -> None:
  """Writes `wav_bytes` to a file, which appears when it is complete; its errors name the file."""
  try:
    content = wav_bytes(samples, rate)
  except ValueError as error:
    raise ValueError(f'{os.fspath(path)}: {error}') from error
  target = pathlib.Path(path)
  store.folder(target.parent).write(target.name, [content])
