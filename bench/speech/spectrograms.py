"""Pictures of what `vibevoice.compare` wrote and `bench.speech.heard` heard: a clip a row, a kind of sound a column."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core import audio

QUIETEST, LOUDEST = -7, 0  # natural logarithms of mel power


def draw(
  path: pathlib.Path,
  *,
  rows: Sequence[Mapping[str, Any]],
  clips: Mapping[str, Sequence[np.ndarray]],
  results: Mapping[str, Mapping[str, Any]],
  rate: int,
) -> None:
  """Writes a picture of log mel spectra, with the script at the left and what was heard above each.

  rows: of results.json. clips: float32 [n] at `rate` of each kind. results: of `bench.speech.heard.measure`.
  """
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  size = (3.6 * len(clips), 1.7 * len(rows))
  figure, axes = plt.subplots(len(rows), len(clips), figsize=size, squeeze=False, layout='constrained')
  for i, row in enumerate(rows):
    for axis, (kind, sounds) in zip(axes[i], clips.items()):
      _spectrum(axis, sounds[i], rate)
      heard = results[kind]['transcripts'][i].strip()
      axis.set_title(f'{kind}: {heard}' if i == 0 else heard, fontsize=8, parse_math=False)
    axes[i, 0].set_ylabel(row['script'].replace('Speaker ', ''), fontsize=6, parse_math=False)
  for axis in axes[-1]:
    axis.set_xlabel('seconds', fontsize=8)
  figure.savefig(path, dpi=90)
  plt.close(figure)


def _spectrum(axis: Any, samples: np.ndarray, rate: int) -> None:
  """Log mel power of samples [n] on an axis."""
  power = np.asarray(audio.power_spectrum(samples, size=512, hop=128))
  filters = np.asarray(audio.mel_filters(64, rate=rate, size=512))
  logs = np.log(power @ filters.T + 1e-8)
  seconds = len(samples) / rate
  axis.imshow(logs.T, origin='lower', aspect='auto', vmin=QUIETEST, vmax=LOUDEST, extent=(0, seconds, 0, 64))
  axis.set_yticks([])
  axis.tick_params(labelsize=7)
