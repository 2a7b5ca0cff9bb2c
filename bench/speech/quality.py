"""How close one recording is to another, by name: spectra, noise, intelligibility, voice.

Each metric takes (reference, made), float32 [n] of one length at its own rate. Those of other packages (extra `speech`)
are computed by these packages and are left out where they are not installed.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable

import numpy as np

from bench.speech.tasks import cosine
from vibevoice.config import SAMPLE_RATE
from vibevoice.training import reconstruction

TELEPHONE = 16_000  # Hz, of wideband PESQ, STOI and speaker embeddings


@dataclasses.dataclass(frozen=True)
class Metric:
  """rate: Hz of the samples it takes. module: the package that it needs; '' for none."""

  compute: Callable[[np.ndarray, np.ndarray], float]
  rate: int
  module: str = ''


def mel(reference: np.ndarray, made: np.ndarray) -> float:
  """Mean difference of log10 mel amplitudes over several windows; 0 for equal ones."""
  return float(reconstruction.mel_distance(reference[None], made[None])[0])


def pesq(reference: np.ndarray, made: np.ndarray) -> float:
  """Wideband PESQ (ITU-T P.862.2), about 1 to 4.6."""
  return float(importlib.import_module('pesq').pesq(TELEPHONE, reference, made, 'wb'))


def stoi(reference: np.ndarray, made: np.ndarray) -> float:
  """Short-time objective intelligibility (IEEE TASLP 19(7), 2011), up to 1."""
  return float(importlib.import_module('pystoi').stoi(reference, made, TELEPHONE))


def similarity(reference: np.ndarray, made: np.ndarray) -> float:
  """Cosine of Resemblyzer's speaker embeddings (arXiv 1710.10467)."""
  encoder = _voice_encoder()
  preprocess = importlib.import_module('resemblyzer').preprocess_wav
  vectors = [encoder.embed_utterance(preprocess(clip, source_sr=TELEPHONE)) for clip in (reference, made)]
  return cosine(*(vector.tolist() for vector in vectors))


@functools.cache
def _voice_encoder():
  return importlib.import_module('resemblyzer').VoiceEncoder('cpu', verbose=False)


METRICS = {
  'mel': Metric(mel, SAMPLE_RATE),
  'snr': Metric(reconstruction.noise_ratio, SAMPLE_RATE),
  'pesq': Metric(pesq, TELEPHONE, 'pesq'),
  'stoi': Metric(stoi, TELEPHONE, 'pystoi'),
  'similarity': Metric(similarity, TELEPHONE, 'resemblyzer'),
}


def missing(name: str) -> str:
  """Why a metric cannot be computed here; '' if it can."""
  module = METRICS[name].module
  if not module:
    return ''
  try:
    importlib.import_module(module)
  except ImportError:
    return f"needs {module}: pip install -e '.[speech]'"
  return ''
