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
  frames = [max(min(len(x), samples) // HOP, STRIDE) for x in speech.clips]
  states = features(params, config, mels, frames)
  spectra = np.stack([_moments(mel[:size]) for mel, size in zip(mels, frames)])
  for question, labels in speech.labels.items():
    shared = {'labels': labels, 'groups': speech.groups, 'folds': folds}
    yield Answer(question, probe.fit(states, **shared), probe.fit(spectra[None], **shared))


def features(params: model.Params, config: Config, mels: Sequence[np.ndarray], frames: Sequence[int]) -> np.ndarray:
  """[L, n, D]: the residual stream averaged over the first `frames` mel frames of each of n log-mel windows."""
  pieces = []
  for first in range(0, len(mels), BATCH):
    rows = mels[first : first + BATCH]
    padded = np.stack([*rows, *[rows[-1]] * (BATCH - len(rows))])
    states = np.asarray(_states(params, config, padded))[:, : len(rows)]
    ends = np.asarray(frames[first : first + BATCH]) // STRIDE
    spoken = np.arange(states.shape[2]) < ends[:, None]
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
