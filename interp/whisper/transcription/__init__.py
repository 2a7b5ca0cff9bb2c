"""Recordings of any length to text."""

import os
from collections.abc import Callable

import numpy as np

from core.audio import Segment
from interp.whisper.config import Config
from interp.whisper.decoding.window import Recogniser
from interp.whisper.model import Params
from interp.whisper.options import Options
from interp.whisper.processor import Processor
from interp.whisper.transcription.recording import Recording
from interp.whisper.transcription.together import Step, steps

__all__ = ['Recording', 'Step', 'steps', 'transcribe']

DEFAULTS = Options()


def transcribe(
  params: Params,
  config: Config,
  processor: Processor,
  audio: str | os.PathLike | np.ndarray,
  options: Options = DEFAULTS,
  *,
  progress: Callable[[float, float], None] | None = None,
  edit: Callable | None = None,
) -> list[Segment]:
  """The segments of a recording: a file, or samples [n] at 16 kHz. `steps` gives those of many, as they are heard.

  progress(done, total): called after each window with seconds. edit: as in `core.tap`, in encoder and decoder.
  Raises OSError or ValueError for a recording that cannot be read, and ValueError for options that the model lacks.
  """
  recogniser = Recogniser(params, config, processor, options, edit)
  recording = Recording(audio, config)
  segments = []
  for step in steps(recogniser, [recording]):
    segments += step.segments
    if progress is not None:
      progress(step.done, recording.seconds)
  return segments
