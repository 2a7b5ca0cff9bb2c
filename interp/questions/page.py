"""The answers as numbers, lines and charts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.report import charts
from interp.questions.layers import Answer
from interp.questions.lenses import Lenses

SHOWN = 70  # characters of a text


def numbers(answers: Sequence[Answer], seen: Lenses | None) -> dict[str, Any]:
  """The findings as JSON."""
  found: dict[str, Any] = {'probes': {one.question: _probe(one) for one in answers}}
  if seen is not None:
    found['lenses'] = {
      'decided': seen.decided.tolist(),
      'curves': {name: curve.tolist() for name, curve in seen.curves.items()},
      'silent': seen.silent.tolist(),
      'loops': seen.loops.tolist(),
      'errors': seen.errors.tolist(),
      'heard': [[dataclasses.asdict(one) for one in row] for row in seen.heard],
    }
  return found


def _probe(one: Answer) -> dict[str, Any]:
  return {
    'accuracy': one.layers.accuracy.tolist(),
    'interval': one.layers.interval.tolist(),
    'shuffled': one.layers.control.tolist(),
    'mel': float(one.mel.accuracy[0]),
    'chance': one.layers.chance,
    'groups': one.layers.items,
  }


def summary(answers: Sequence[Answer], seen: Lenses | None) -> list[str]:
  """The findings in a few lines."""
  lines = []
  for one in answers:
    layers = ' '.join(f'{share:.1%}' for share in one.layers.accuracy)
    shuffled = f'shuffled labels {one.layers.control.max():.1%} at most'
    lines.append(f'{one.question}: {layers}; mel {one.mel.accuracy[0]:.1%}, chance {one.layers.chance:.1%}, {shuffled}')
  if seen is None:
    return lines
  lines.append(f'tokens decided after each layer, and never: {seen.decided.tolist()}')
  for layer, (silent, loops, errors) in enumerate(zip(seen.silent, seen.loops, seen.errors)):
    example = seen.heard[0][layer].text[:SHOWN]
    lines.append(
      f'encoder layer {layer}: no word {silent:.0%}, loops {loops:.0%}, edits a word {errors:.2f}; {example!r}'
    )
  return lines


def probes_chart(answers: Sequence[Answer]):
  """Accuracy by encoder layer, a panel for each question, with its interval, controls, chance and mel frames alone."""
  fig, axes = charts.stacked(6, 1.7 * len(answers), len(answers))
  for axis, one in zip(axes, answers):
    p = one.layers
    layers = np.arange(len(p.accuracy))
    low, high = p.interval.T
    charts.curve(axis, layers, p.accuracy, label='probe', low=low, high=high, marker='o', color=charts.STRONG)
    axis.plot(layers, p.control, ls=':', color=charts.GREY, label='shuffled labels')
    axis.axhline(p.chance, ls='--', lw=1, color='black', label='chance')
    axis.axhline(one.mel.accuracy[0], ls='-.', lw=1, color=charts.GREEN, label='mel frames alone')
    axis.set_ylim(0, 1.04)
    axis.set_ylabel(one.question)
  axes[0].legend(fontsize=7, loc='lower right', ncols=2)
  axes[-1].set_xticks(layers)
  axes[-1].set_xlabel('blocks of the encoder')
  return fig


def lenses_chart(seen: Lenses):
  """Tokens decided at each decoder layer, and what the decoder makes of each encoder layer."""
  fig, (above, below) = charts.stacked(6, 4.8, 2)
  decided = seen.decided / max(seen.decided.sum(), 1)
  above.bar(np.arange(len(decided)), decided, color=charts.STRONG)
  names = [*(f'layer {layer}' for layer in range(len(decided) - 1)), 'never']
  for at, (name, share) in enumerate(zip(names, decided)):
    above.text(at, share, f'{name}: {share:.0%}', ha='center', va='bottom', fontsize=8)
  above.set_title('tokens decided after each layer of the decoder', fontsize=10)
  layers = np.arange(len(seen.loops))
  below.bar(layers - 0.2, seen.silent, width=0.4, color=charts.SOFT, label='without a word')
  below.bar(layers + 0.2, seen.loops, width=0.4, color=charts.STRONG, label='that loop')
  below.set_title('windows, when the decoder reads an earlier layer of the encoder', fontsize=10)
  below.legend(fontsize=8, loc='upper right')
  below.set_xticks(layers)
  below.set_xlabel('blocks of the encoder')
  for axis in (above, below):
    axis.set_ylim(0, 1.1)
  return fig
