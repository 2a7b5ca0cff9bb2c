"""Which heads of cross-attention follow the audio, for models that publish none, such as fine-tuned ones.

A attention heads   T tokens   S encoder positions, 50 a second
"""

import itertools
from collections.abc import Sequence

import numpy as np

from interp.whisper import alignment, frontend
from interp.whisper.alignment import Heads
from interp.whisper.config import HOP, STRIDE
from interp.whisper.decoding.window import Recogniser


def monotony(weights: np.ndarray) -> np.ndarray:
  """How well each head alone follows the audio, float [A], of its attention [A, T, S].

  The mean of its standardised attention along its own best monotonic path: high for a head that attends to one place
  after the other, about 0 for one that attends at random or always to the same place.
  """
  scores = []
  for one in weights:
    matrix = alignment.sharpness(one[None])
    rows, columns = alignment.warp(-matrix)
    scores.append(matrix[rows, columns].mean())
  return np.asarray(scores)


def search(recogniser: Recogniser, windows: Sequence[np.ndarray], *, count: int, language: str = 'en') -> Heads:
  """The `count` heads of the whole decoder that follow the audio best, (layer, head), best first.

  windows: samples [n] at 16 kHz of speech, at most 30 s each; the model's own text of them is aligned.
  Raises ValueError if it says fewer than two tokens in every window, or for more heads than there are.
  """
  c = recogniser.config
  layers = range(c.decoder_depth)
  heads = tuple(itertools.product(layers, range(c.heads)))
  if not 1 <= count <= len(heads):
    raise ValueError(f'count={count} heads; expected 1 to {len(heads)}')
  scores = [monotony(weights) for weights in _attention(recogniser, windows, heads, language)]
  if not scores:
    raise ValueError('the model says nothing in any window; expected speech')
  mean = np.mean(scores, 0)
  best = np.argsort(-mean, kind='stable')
  return tuple(heads[i] for i in best[:count])


def _attention(r: Recogniser, windows: Sequence[np.ndarray], heads: Heads, language: str):
  """Attention [A, T, S] of the steps that read each token but the last, within the recording."""
  c = r.config
  prompt = r.processor.prompt(language=language, timestamps=False)
  for samples in windows:
    mel = frontend.log_mel(samples, c.mels, length=c.samples)
    keys = r.keys(mel[None])
    (result,) = r(keys, [prompt], [0])
    if len(result.tokens) < 2:
      continue
    read = [*prompt, *result.tokens[:-1]]
    scores, _ = alignment.attention(r.params.decoder, c, keys, read, heads)
    frames = len(samples) // HOP
    positions = max(frames // STRIDE, 1)
    said = scores[:, len(prompt) :, :positions]
    yield alignment.softmax(said)
