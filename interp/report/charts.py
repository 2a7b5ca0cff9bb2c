"""Figures of a study."""

import numpy as np

from core.report.charts import figure, plain, stacked
from interp.report.window import Study
from interp.whisper.processor import TIMESTAMPS_A_SECOND

MOST_LABELS = 60  # tokens whose text fits below a chart
INCH = 0.24  # width of a token


def lens(study: Study):
  """A heat map: how probable each layer of the decoder makes the token that the model says, with its own favourite."""
  probability = np.exp(study.lens.logp)
  layers, tokens = probability.shape
  width = 2 + 2 * INCH * min(tokens, MOST_LABELS)
  height = 1.4 + 0.45 * layers
  fig, axis = figure(width, height)
  picture = axis.imshow(probability, aspect='auto', cmap='viridis', vmin=0, vmax=1)
  if tokens <= MOST_LABELS:
    _write(axis, study, probability)
  axis.set_ylabel('after decoder layer')
  axis.set_yticks(range(layers))
  _tokens(axis.xaxis, study)
  fig.colorbar(picture, label='probability of the token said')
  return fig


def _write(axis, study: Study, probability: np.ndarray) -> None:
  """Each layer's likeliest token in its cell."""
  for layer, row in enumerate(study.likeliest):
    for at, text in enumerate(row):
      colour = 'black' if probability[layer, at] > 0.5 else 'white'
      axis.text(at, layer, plain(text.strip()[:9]), ha='center', va='center', fontsize=5, color=colour)


def attention(study: Study):
  """Cross-attention of the alignment heads: which part of the recording each token is read from."""
  tokens, positions = study.attention.shape
  fig, axis = figure(8, 1.5 + INCH * min(tokens, MOST_LABELS) * 0.7)
  end = positions / TIMESTAMPS_A_SECOND
  axis.imshow(study.attention, aspect='auto', cmap='magma', extent=(0, end, tokens - 0.5, -0.5), vmin=0)
  axis.set_xlabel('seconds')
  _tokens(axis.yaxis, study)
  return fig


def curves(study: Study):
  """Means over tokens by layer: probability of the token said, and entropy."""
  fig, (above, below) = stacked(6, 4, 2)
  layers = range(len(study.lens.logp))
  above.plot(layers, np.exp(study.lens.logp).mean(1), marker='o')
  above.set_ylabel('probability of\nthe token said')
  below.plot(layers, study.lens.entropy.mean(1), marker='o')
  below.set_ylabel('entropy, nats')
  below.set_xlabel('after decoder layer')
  below.set_xticks(layers)
  return fig


def _tokens(axis, study: Study) -> None:
  """The tokens along an axis, if they fit."""
  if len(study.pieces) > MOST_LABELS:
    axis.set_label_text('token')
    return
  axis.set_ticks(range(len(study.pieces)))
  labels = [plain(piece) for piece in study.pieces]
  rotation = 90 if axis.axis_name == 'x' else 0
  axis.set_ticklabels(labels, fontsize=7, rotation=rotation)
