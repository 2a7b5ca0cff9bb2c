"""The answers as numbers, lines and charts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.report import charts
from core.report.intervals import wilson
from interp.questions.bias import SHARES, Bias
from interp.questions.layers import Answer
from interp.questions.lenses import Lenses

SHOWN = 70  # characters of a text
SHOWN_BRANCHES = 5
VERDICTS = ('right', 'biased', 'other')
SIDES = ('encoder', 'decoder', 'either')


def numbers(answers: Sequence[Answer], seen: Lenses | None, bias: Bias | None) -> dict[str, Any]:
  """The findings as JSON."""
  found: dict[str, Any] = {'probes': {one.question: _probe(one) for one in answers}}
  if seen is not None:
    found['lenses'] = _lenses(seen)
  if bias is not None:
    found['bias'] = _bias(bias)
  return found


def _lenses(seen: Lenses) -> dict[str, Any]:
  return {
    'decided': seen.decided.tolist(),
    'curves': {name: curve.tolist() for name, curve in seen.curves.items()},
    'silent': seen.silent.tolist(),
    'loops': seen.loops.tolist(),
    'errors': seen.errors.tolist(),
    'heard': [[dataclasses.asdict(one) for one in row] for row in seen.heard],
  }


def _bias(bias: Bias) -> dict[str, Any]:
  return {
    'verdicts': bias.verdicts,
    'components': [str(part) for part in bias.components],
    'shares': SHARES,
    'recovered': bias.recovered.tolist(),
    'kept': bias.kept.tolist(),
  }


def _probe(one: Answer) -> dict[str, Any]:
  return {
    'accuracy': one.layers.accuracy.tolist(),
    'interval': one.layers.interval.tolist(),
    'shuffled': one.layers.control.tolist(),
    'mel': float(one.mel.accuracy[0]),
    'chance': one.layers.chance,
    'groups': one.layers.items,
  }


def summary(answers: Sequence[Answer], seen: Lenses | None, bias: Bias | None) -> list[str]:
  """The findings in a few lines."""
  lines = [_probe_line(one) for one in answers]
  if seen is not None:
    lines += _lens_lines(seen)
  if bias is not None:
    lines += _bias_lines(bias)
  return lines


def _probe_line(one: Answer) -> str:
  layers = ' '.join(f'{share:.1%}' for share in one.layers.accuracy)
  controls = f'chance {one.layers.chance:.1%}, shuffled labels {one.layers.control.max():.1%} at most'
  return f'{one.question}: {layers}; mel {one.mel.accuracy[0]:.1%}, {controls}'


def _lens_lines(seen: Lenses) -> list[str]:
  lines = [f'tokens decided after each layer, and never: {seen.decided.tolist()}']
  for layer, (silent, loops, errors) in enumerate(zip(seen.silent, seen.loops, seen.errors)):
    example = seen.heard[0][layer].text[:SHOWN]
    shares = f'no word {silent:.0%}, loops {loops:.0%}, edits a word {errors:.2f}'
    lines.append(f'encoder layer {layer}: {shares}; {example!r}')
  return lines


def _bias_lines(bias: Bias) -> list[str]:
  counts = {verdict: bias.verdicts.count(verdict) for verdict in VERDICTS}
  lines = [f'sentences by the word written: {counts}']
  if not len(bias.recovered):
    return lines
  lines += [f'errors recovered by some branch, {side}: {_share(bias.any(side))}' for side in SIDES]
  best = bias.recovered.mean(0).max(0).argsort()[::-1][:SHOWN_BRANCHES]
  for part in best:
    for at, share in enumerate(SHARES):
      recovered = _share(bias.recovered[:, at, part])
      kept = f'{bias.kept[:, at, part].mean():.0%} of right sentences stay right'
      lines.append(f'  {bias.components[part]} blended {share:.0%}: {recovered}; {kept}')
  return lines


def _share(right: np.ndarray) -> str:
  """A share of bools [n], with its interval."""
  low, high = wilson(int(right.sum()), len(right))
  return f'{right.sum()} of {len(right)}, {right.mean():.0%} ({low:.0%} to {high:.0%})'


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


def bias_chart(bias: Bias):
  """For each branch, the errors that a blend with noise recovers and the right sentences that stay right."""
  fig, axes = charts.stacked(8, 2.4 * len(SHARES), len(SHARES))
  places = np.arange(len(bias.components))
  for at, (axis, share) in enumerate(zip(axes, SHARES)):
    recovered = bias.recovered[:, at].mean(0)
    kept = bias.kept[:, at].mean(0)
    axis.bar(places - 0.2, recovered, width=0.4, color=charts.STRONG, label='errors recovered')
    axis.bar(places + 0.2, kept, width=0.4, color=charts.SOFT, label='right sentences that stay right')
    axis.set_title(f'{share:.0%} of a branch is that of white noise', fontsize=10)
    axis.set_ylim(0, 1.1)
  axes[0].legend(fontsize=8, loc='upper right')
  names = [str(part) for part in bias.components]
  axes[-1].set_xticks(places, names, rotation=90, fontsize=7)
  return fig
