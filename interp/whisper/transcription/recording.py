"""A recording of any length as the model's input, window by window, in the memory of a few windows."""

import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from core.audio import check, open_recording
from interp.whisper import frontend
from interp.whisper.config import HOP, RATE, Config

FRAMES_A_SECOND = RATE // HOP
Blocks = Callable[[], Iterator[np.ndarray]]


class Recording:
  """Log-mel frames of a recording, scaled by its loudest one as openai/whisper's `transcribe` has it.

  The recording is read twice: at once, to the end, for its length and its loudest frame, and again as windows are asked
  for. `frames` counts its mel frames, 100 a second.
  """

  def __init__(self, audio: str | os.PathLike | np.ndarray | Blocks, config: Config):
    """audio: a file, samples float [n] at 16 kHz, or a function that gives blocks of such samples from the start.

    Raises OSError or ValueError, naming the file, for what cannot be read to its end, holds no samples, or some that
    `core.audio.check` refuses.
    """
    self.name, self._blocks = _opened(audio)
    self._config = config
    length, self._loudest = self._measured()
    self.frames = max(length // HOP, 1)
    self._rewind()

  @property
  def seconds(self) -> float:
    """Duration."""
    return self.frames / FRAMES_A_SECOND

  def window(self, start: int, size: int) -> np.ndarray:
    """The `size` frames from `start` on, float32, with zeros after them up to a window [frames, mels].

    Frames before `start` are forgotten: going back means reading the recording again.
    """
    if start < self._first:
      self._rewind()
    while self._first + len(self._held) < start + size:
      self._held = np.concatenate([self._held, next(self._powers)])
      passed = min(start - self._first, len(self._held))
      self._held = self._held[passed:]
      self._first += passed
    begin = start - self._first
    piece = frontend.scaled(self._held[begin : begin + size], self._loudest)
    return np.pad(piece, ((0, self._config.frames - size), (0, 0)))

  def _measured(self) -> tuple[int, float]:
    """(samples, log10 of the loudest mel power)."""
    length = 0

    def counted() -> Iterator[np.ndarray]:
      nonlocal length
      for block in self._blocks():
        check(block, self.name)
        length += len(block)
        yield block

    loudest = max(float(powers.max()) for powers in frontend.log_powers(counted(), self._config.mels))
    if not length:
      raise ValueError(f'{self.name}: the recording is empty')
    return length, loudest

  def _rewind(self) -> None:
    """Reads from the start."""
    self._powers = frontend.log_powers(self._blocks(), self._config.mels)
    self._held = np.zeros((0, self._config.mels), np.float32)
    self._first = 0


def _opened(audio) -> tuple[str, Blocks]:
  """(name, blocks) of a file, samples or blocks."""
  if isinstance(audio, str | pathlib.PurePath | os.PathLike):
    return os.fspath(audio), lambda: _file_blocks(audio)
  if callable(audio):
    return 'the stream', audio
  samples = np.asarray(audio, np.float32)
  if samples.ndim != 1 or not samples.size:
    raise ValueError(f'audio of shape {samples.shape}; expected one channel of samples at 16 kHz')
  starts = range(0, len(samples), frontend.BLOCK)
  return 'the samples', lambda: (samples[at : at + frontend.BLOCK] for at in starts)


def _file_blocks(path: str | os.PathLike) -> Iterator[np.ndarray]:
  with open_recording(path) as recording:
    yield from recording.blocks(RATE)
