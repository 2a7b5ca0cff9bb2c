"""The answers as numbers and lines of text."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from core.report.intervals import wilson
from interp.questions.bias import SHARES, Bias
from interp.questions.layers import Answer
from interp.questions.lenses import Lenses

SHOWN = 70  # characters of a text
SHOWN_BRANCHES = 5
VERDICTS = ('right', 'biased', 'other')
Numbers = dict[str, Any]
SIDES = ('encoder', 'decoder', 'either')


def numbers(answers: Sequence[Answer], seen: Lenses | None, bias: Bias | None) -> Numbers:
  """The findings as JSON."""
  probes = {one.question: _probe(one) for one in answers}
  found: Numbers = {'probes': probes}
  if seen is not None:
    found['lenses'] = _lenses(seen)
  if bias is not None:
    found['bias'] = _bias(bias)
  return found


def _lenses(seen: Lenses) -> Numbers:
  curves = {name: curve.tolist() for name, curve in seen.curves.items()}
  heard = [list(map(dataclasses.asdict, row)) for row in seen.heard]
  return {
    'decided': seen.decided.tolist(),
    'curves': curves,
    'silent': seen.silent.tolist(),
    'loops': seen.loops.tolist(),
    'errors': seen.errors.tolist(),
    'heard': heard,
  }


def _bias(bias: Bias) -> Numbers:
  return {
    'verdicts': bias.verdicts,
    'components': list(map(str, bias.components)),
    'shares': SHARES,
    'recovered': bias.recovered.tolist(),
    'kept': bias.kept.tolist(),
  }


def _probe(one: Answer) -> Numbers:
  p = one.layers
  return {
    'accuracy': p.accuracy.tolist(),
    'interval': p.interval.tolist(),
    'shuffled': p.control.tolist(),
    'mel': float(one.mel.accuracy[0]),
    'chance': p.chance,
    'groups': p.items,
  }


def summary(answers: Sequence[Answer], seen: Lenses | None, bias: Bias | None) -> list[str]:
  """The findings in a few lines."""
  lines = list(map(_probe_line, answers))
  if seen is not None:
    lines += _lens_lines(seen)
  if bias is not None:
    lines += _bias_lines(bias)
  return lines


def _probe_line(one: Answer) -> str:
  p = one.layers
  shares = [f'{share:.1%}' for share in p.accuracy]
  layers = ' '.join(shares)
  mel = one.mel.accuracy[0]
  shuffled = p.control.max()
  controls = f'chance {p.chance:.1%}, shuffled labels {shuffled:.1%} at most'
  return f'{one.question}: {layers}; mel {mel:.1%}, {controls}'


def _lens_lines(seen: Lenses) -> Iterator[str]:
  yield f'tokens decided after each layer, and never: {seen.decided.tolist()}'
  first = seen.heard[0]
  for layer, one in enumerate(first):
    silent = seen.silent[layer]
    loops = seen.loops[layer]
    errors = seen.errors[layer]
    shares = f'no word {silent:.0%}, loops {loops:.0%}, edits a word {errors:.2f}'
    example = one.text[:SHOWN]
    yield f'encoder layer {layer}: {shares}; {example!r}'


def _bias_lines(bias: Bias) -> Iterator[str]:
  counts = {verdict: bias.verdicts.count(verdict) for verdict in VERDICTS}
  yield f'sentences by the word written: {counts}'
  if not len(bias.recovered):
    return
  for side in SIDES:
    errors = bias.any(side)
    yield f'errors recovered by some branch, {side}: {_share(errors)}'
  by_share = bias.recovered.mean(0)
  order = by_share.max(0).argsort()[::-1]
  for part in order[:SHOWN_BRANCHES]:
    yield from _branch_lines(bias, part)


def _branch_lines(bias: Bias, part: int) -> Iterator[str]:
  """What blends of one branch with noise recover and keep."""
  name = bias.components[part]
  for at, share in enumerate(SHARES):
    recovered = bias.recovered[:, at, part]
    kept = bias.kept[:, at, part].mean()
    gained = f'  {name} blended {share:.0%}: {_share(recovered)}'
    yield f'{gained}; {kept:.0%} of right sentences stay right'


def _share(right: np.ndarray) -> str:
  """A share of bools [n], with its interval."""
  n = len(right)
  count = int(right.sum())
  share = count / n
  low, high = wilson(count, n)
  return f'{count} of {n}, {share:.0%} ({low:.0%} to {high:.0%})'
