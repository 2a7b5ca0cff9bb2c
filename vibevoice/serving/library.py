"""The voices of a server: a folder of recordings, read and encoded once."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from vibevoice import model
from vibevoice.config import Config
from vibevoice.generation import prefill
from vibevoice.inputs import voices

SUFFIXES = ('.wav', '.flac', '.mp3', '.ogg')


@dataclasses.dataclass(frozen=True)
class Voice:
  """clip: float32 [n] at 24 kHz. means: [1, F, C] of the acoustic encoder."""

  clip: np.ndarray
  means: jax.Array


def clips(folder: str, config: Config) -> dict[str, np.ndarray]:
  """The prepared recordings of a folder by file name without suffix, in order of names.

  Raises ValueError for a folder without recordings, two of one name, or one that is no voice; OSError for no folder.
  """
  paths = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
  if not paths:
    raise ValueError(f'{folder}: no recordings ({", ".join(SUFFIXES)}); expected one for each voice')
  found = {}
  for path in paths:
    if path.stem in found or ',' in path.stem:
      raise ValueError(f'{path}: the names of voices differ and have no comma')
    found[path.stem] = voices.prepare(path, config)
  return found


class Library:
  """Voices by name, and the latents of those that speak together."""

  def __init__(self, params: model.Params, config: Config, recordings: dict[str, np.ndarray]):
    """Encodes the recordings, and draws latents of each once, so that no request waits for a compilation."""
    self._params = params
    self._config = config
    self.voices = {}
    for name, clip in recordings.items():
      self.voices[name] = Voice(clip, prefill.voice_means(params, config, clip))
      self.latents([name], seed=0)

  def latents(self, names: Sequence[str], *, seed: int) -> np.ndarray:
    """Scaled latents float32 [F, C], one voice after the other, with the noise of `seed`."""
    means = [self.voices[name].means for name in names]
    return prefill.latents_of(self._params, self._config, means, seed=seed)
