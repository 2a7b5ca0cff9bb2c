"""Recordings of any format that libsndfile decodes, as blocks of mono float32 samples at one rate."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from core.audio.resample import Resampler
from core.audio.samples import check

BLOCK_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Recording:
  """An open file: its own rate in Hz, channels, and frames (samples of one channel) as its header states them."""

  path: str
  rate: int
  channels: int
  frames: int
  _file: Any = dataclasses.field(repr=False)

  @property
  def seconds(self) -> float:
    """Duration, as the header states it."""
    return self.frames / self.rate

  def blocks(self, rate: int | None = None) -> Iterator[np.ndarray]:
    """Mono float32 [samples] blocks at `rate` Hz, by default the file's own, from the start of the file.

    Channels are averaged. Memory is that of one block. Raises ValueError, naming the file, where it cannot be decoded,
    its rate is none that can be changed, or a sample is NaN, infinite or beyond 2^31.
    """
    with _naming(self.path):
      self._file.seek(0)
      resampler = Resampler(self.rate, self.rate if rate is None else rate)
    while True:
      with _naming(self.path):
        block = self._file.read(BLOCK_SECONDS * self.rate, dtype='float32', always_2d=True)
      if not len(block):
        break
      mono = block.mean(1, dtype=np.float32)
      check(mono, self.path)
      yield resampler(mono)
    yield resampler.end()


@contextlib.contextmanager
def _naming(path: str):
  """Errors of decoding and of sample rates as a ValueError that names the file."""
  import soundfile

  try:
    yield
  except soundfile.LibsndfileError as error:
    raise ValueError(f'{path}: not a recording that can be decoded ({error.error_string})') from error
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


@contextlib.contextmanager
def open_recording(path: str | os.PathLike) -> Iterator[Recording]:
  """An open file. Raises OSError when it cannot be opened, ValueError when it is not a recording."""
  import soundfile

  name = os.fspath(path)
  with open(name, 'rb') as raw:  # a missing file is an OSError that names it
    with _naming(name):
      file = soundfile.SoundFile(raw)
    with file:
      yield Recording(name, file.samplerate, file.channels, file.frames, file)


def load(path: str | os.PathLike, rate: int | None = None) -> np.ndarray:
  """A whole file as mono float32 [samples] at `rate` Hz, by default its own.

  Raises OSError or ValueError, naming the file and the reason, when it cannot be read or holds no samples.
  """
  with open_recording(path) as recording:
    samples = np.concatenate([*recording.blocks(rate), np.zeros(0, np.float32)])
  if not samples.size:
    raise ValueError(f'{os.fspath(path)}: the recording is empty')
  return samples
