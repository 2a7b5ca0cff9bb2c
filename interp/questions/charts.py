"""The answers as charts."""

from collections.abc import Sequence

import numpy as np

from core.report import charts
from interp.questions.bias import SHARES, Bias
from interp.questions.layers import Answer
from interp.questions.lenses import Lenses

FULL = 1.1  # of an axis of shares, which leaves room for labels
SMALL, TINY, TITLE = 8, 7, 10  # points


def probes(answers: Sequence[Answer]):
  """Accuracy by encoder layer, a panel for each question, with its interval, controls, chance and mel frames alone."""
  panels = len(answers)
  fig, axes = charts.stacked(6, 1.7 * panels, panels)
  for axis, one in zip(axes, answers):
    _accuracy(axis, one)
  lowest = axes[-1]
  axes[0].legend(fontsize=TINY, loc='lower right', ncols=2)
  layers = len(answers[0].layers.accuracy)
  lowest.set_xticks(range(layers))
  lowest.set_xlabel('blocks of the encoder')
  return fig


def _accuracy(axis, one: Answer) -> None:
  """The panel of one question."""
  p = one.layers
  layers = np.arange(len(p.accuracy))
  low, high = p.interval.T
  mel = one.mel.accuracy[0]
  charts.curve(
    axis,
    layers,
    p.accuracy,
    label='probe',
    low=low,
    high=high,
    marker='o',
    color=charts.STRONG,
  )
  axis.plot(layers, p.control, ls=':', color=charts.GREY, label='shuffled labels')
  axis.axhline(p.chance, ls='--', lw=1, color='black', label='chance')
  axis.axhline(mel, ls='-.', lw=1, color=charts.GREEN, label='mel frames alone')
  axis.set_ylim(0, 1.04)
  axis.set_ylabel(one.question)


def lenses(seen: Lenses):
  """Tokens decided at each decoder layer, and what the decoder makes of each encoder layer."""
  fig, (above, below) = charts.stacked(6, 4.8, 2)
  _decided(above, seen)
  layers = np.arange(len(seen.loops))
  _pairs(
    below,
    layers,
    {'without a word': (seen.silent, charts.SOFT), 'that loop': (seen.loops, charts.STRONG)},
  )
  below.set_title('windows, when the decoder reads an earlier layer of the encoder', fontsize=TITLE)
  below.legend(fontsize=SMALL, loc='upper right')
  below.set_xticks(layers)
  below.set_xlabel('blocks of the encoder')
  return fig


def _decided(axis, seen: Lenses) -> None:
  """Shares of tokens by the layer that decides them."""
  total = max(seen.decided.sum(), 1)
  shares = seen.decided / total
  layers = range(len(shares))
  names = [f'layer {layer}' for layer in layers]
  names[-1] = 'never'
  axis.bar(layers, shares, color=charts.STRONG)
  for at, (name, share) in enumerate(zip(names, shares)):
    label = f'{name}: {share:.0%}'
    axis.text(at, share, label, ha='center', va='bottom', fontsize=SMALL)
  axis.set_title('tokens decided after each layer of the decoder', fontsize=TITLE)
  axis.set_ylim(0, FULL)


def bias(found: Bias):
  """For each branch, the errors that a blend with noise recovers and the right sentences that stay right."""
  panels = len(SHARES)
  fig, axes = charts.stacked(8, 2.4 * panels, panels)
  places = np.arange(len(found.components))
  for at, (axis, share) in enumerate(zip(axes, SHARES)):
    recovered = found.recovered[:, at].mean(0)
    kept = found.kept[:, at].mean(0)
    bars = {
      'errors recovered': (recovered, charts.STRONG),
      'right sentences that stay right': (kept, charts.SOFT),
    }
    _pairs(axis, places, bars)
    axis.set_title(f'{share:.0%} of a branch is that of white noise', fontsize=TITLE)
  axes[0].legend(fontsize=SMALL, loc='upper right')
  names = list(map(str, found.components))
  lowest = axes[-1]
  lowest.set_xticks(places, names, rotation=90, fontsize=TINY)
  return fig


def _pairs(axis, places: np.ndarray, bars: dict[str, tuple[np.ndarray, str]]) -> None:
  """Two bars at each place; bars: (shares, colour) by label."""
  for offset, (label, (shares, color)) in zip((-0.2, 0.2), bars.items()):
    axis.bar(places + offset, shares, width=0.4, color=color, label=label)
  axis.set_ylim(0, FULL)
