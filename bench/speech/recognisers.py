"""Whisper as a function of one window: ours, and CTranslate2's, which shares no code with it.

Both decode without timestamps, fallback and earlier text, so that their answers compare.
"""

from collections.abc import Callable
from typing import Any, Literal

Name = Literal['ours', 'ctranslate2']


def recogniser(name: Name, model: str, *, beams: int = 1, tokens: int = 224) -> Callable[[Any], str]:
  """Log-mel frames float32 [3000, mels] to text. model: folder of a CTranslate2 checkpoint of Whisper.

  tokens: of a window at most. Raises ImportError where ctranslate2 is asked for and not installed.
  """
  return {'ours': _ours, 'ctranslate2': _ctranslate2}[name](model, beams, tokens)


def _ours(model: str, beams: int, tokens: int) -> Callable:
  from interp import whisper
  from interp.whisper.decoding.window import Recogniser
  from interp.whisper.options import Options

  config, params = whisper.load(model)
  processor = whisper.Processor.load(model)
  options = Options(timestamps=False, previous=False, temperatures=(0.0,), beams=beams, tokens=tokens)
  window = Recogniser(params, config, processor, options)
  prompt = processor.prompt(language='en', timestamps=False)
  return lambda mel: window(window.keys(mel[None]), [prompt], [0])[0].text


def _ctranslate2(model: str, beams: int, tokens: int) -> Callable:
  import ctranslate2
  import numpy as np

  from interp import whisper

  loaded = ctranslate2.models.Whisper(model, compute_type='float32', inter_threads=1, intra_threads=1)
  processor = whisper.Processor.load(model)
  prompt = processor.prompt(language='en', timestamps=False)

  def run(mel) -> str:
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.T[None]))
    # It halves its `max_length`.
    (result,) = loaded.generate(features, [prompt], beam_size=beams, max_length=2 * tokens)
    return processor.text(result.sequences_ids[0])

  return run
