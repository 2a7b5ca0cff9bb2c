"""The inputs of a study: windows of recordings under every manipulation, and recordings with transcripts."""

import dataclasses
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from core import audio
from core.audio.edits import aligned
from interp.loops.manipulations import MANIPULATIONS
from interp.whisper.config import RATE

SHORTEST = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class Clip:
  """Samples [n] of at most one window at 16 kHz, with where they come from."""

  recording: str
  window: int
  manipulation: str
  samples: np.ndarray

  @property
  def name(self) -> str:
    """Of files about the clip."""
    return f'{self.recording}-{self.window}-{self.manipulation}'

  @property
  def digest(self) -> int:
    """A checksum of the samples."""
    return zlib.crc32(np.ascontiguousarray(self.samples))


def clips(path: str | os.PathLike, manipulations: Sequence[str], *, length: int) -> Iterator[Clip]:
  """Every window of `length` samples of a recording, manipulated in every way; remains shorter than 1 s are left out.

  What a manipulation makes longer than a window is cut. Raises OSError or ValueError as `core.audio.load`.
  """
  samples = audio.load(path, RATE)
  name = pathlib.Path(path).stem
  for index, at in enumerate(range(0, len(samples), length)):
    piece = samples[at : at + length]
    if len(piece) < SHORTEST * RATE:
      continue
    for manipulation in manipulations:
      rng = np.random.default_rng([zlib.crc32(name.encode()), index])
      changed = np.asarray(MANIPULATIONS[manipulation](piece, rng), np.float32)
      yield Clip(name, index, manipulation, changed[:length])


def transcript(path: str | os.PathLike) -> str:
  """The text of a recording: `segments` of the .json file of the same name, or the .txt file.

  Raises ValueError where there is neither.
  """
  told, written = (pathlib.Path(path).with_suffix(suffix) for suffix in ('.json', '.txt'))
  if told.is_file():
    return ' '.join(segment['text'] for segment in json.loads(told.read_text(encoding='utf-8'))['segments'])
  if written.is_file():
    return written.read_text(encoding='utf-8')
  raise ValueError(f'{path}: no transcript; expected {told.name} or {written.name} in the same folder')


def words(text: str) -> list[str]:
  """Words without case and punctuation."""
  plain = text.lower().replace('’', "'")
  return re.sub(r"[^a-z0-9' ]", ' ', plain).split()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
  """(edits, words of the reference)."""
  said = aligned(words(reference), words(hypothesis))
  return said.total, said.length
