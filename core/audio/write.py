"""Recordings to wav files."""

import io
import os
import pathlib

import numpy as np

from core.files import store


def save_wav(path: str | os.PathLike, samples: np.ndarray, rate: int) -> None:
  """Writes samples [n] in -1..1 as 16-bit mono wav; louder ones are clipped. The file appears when complete.

  Raises ValueError for samples that are not one finite channel.
  """
  import soundfile

  samples = np.asarray(samples, np.float32)
  if samples.ndim != 1 or not np.isfinite(samples).all():
    raise ValueError(f'{os.fspath(path)}: samples of shape {samples.shape}; expected one channel of finite numbers')
  buffer = io.BytesIO()
  soundfile.write(buffer, np.clip(samples, -1, 1), rate, format='WAV', subtype='PCM_16')
  target = pathlib.Path(path)
  store.folder(target.parent).write(target.name, [buffer.getvalue()])
