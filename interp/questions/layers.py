"""What each layer of the encoder knows of a clip: probes of states averaged over the frames of speech.

L layers, of which the first is before any block   n clips   D width
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from interp import lens, probe
from interp.probe import Probe
from interp.questions.speech import Speech
from interp.whisper import frontend, model
from interp.whisper.config import HOP, STRIDE, Config

BATCH = 8
KEPT = ('encoder.embed', 'encoder.resid_out')


@dataclasses.dataclass(frozen=True)
class Answer:
  """Probes of every layer [L], and of the mean and deviation of mel frames, which no model has touched."""

  question: str
  layers: Probe
  mel: Probe


def answers(params: model.Params, config: Config, speech: Speech, *, samples: int, folds: int = 5) -> Iterator[Answer]:
  """Probes of everything that is asked of the clips; a group is never on both sides of a fold.

  samples: length of the window that each clip is padded to, at most the model's.
  """
  mels = [frontend.log_mel(x, config.mels, length=samples) for x in speech.clips]
  frames = [_frames(x, samples) for x in speech.clips]
  states = features(params, config, mels, frames)
  moments = [_moments(mel[:size]) for mel, size in zip(mels, frames)]
  spectra = np.stack(moments)[None]
  for question, labels in speech.labels.items():
    fit = functools.partial(probe.fit, labels=labels, groups=speech.groups, folds=folds)
    yield Answer(question, layers=fit(states), mel=fit(spectra))


def _frames(clip: np.ndarray, samples: int) -> int:
  """Mel frames of a clip within the window, at least those of one encoder position."""
  used = min(len(clip), samples)
  return max(used // HOP, STRIDE)


def features(params: model.Params, config: Config, mels: Sequence[np.ndarray], frames: Sequence[int]) -> np.ndarray:
  """[L, n, D]: the residual stream averaged over the first `frames` mel frames of each of n log-mel windows."""
  pieces = []
  for first in range(0, len(mels), BATCH):
    rows = mels[first : first + BATCH]
    count = len(rows)
    padding = [rows[-1]] * (BATCH - count)  # one shape, one program
    padded = np.stack([*rows, *padding])
    states = np.asarray(_states(params, config, padded))
    states = states[:, :count]
    ends = np.asarray(frames[first : first + BATCH]) // STRIDE
    position = np.arange(states.shape[2])
    spoken = position < ends[:, None]
    pieces.append(probe.pooled(states, spoken))
  return np.concatenate(pieces, 1)


def _moments(mel: np.ndarray) -> np.ndarray:
  """[2 mels] of [frames, mels]."""
  return np.concatenate([mel.mean(0), mel.std(0)])


@functools.partial(jax.jit, static_argnames='config')
def _states(params: model.Params, config: Config, mels: jax.Array) -> jax.Array:
  """[L, B, S, D] of the residual stream."""
  _, kept = model.encode(params, config, mels, keep=KEPT)
  return lens.encoder_states(kept)
