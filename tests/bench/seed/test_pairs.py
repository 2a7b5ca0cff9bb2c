"""Pairs with the points a correct scorer gives: `pairs.tsv`, and the development pairs."""

import json
from pathlib import Path

import pytest

from bench.seed import KINDS, score

HERE = Path(__file__).parent
DEVELOPMENT = HERE.parents[1] / 'data' / 'seed_pairs_dev.jsonl'


def own_pairs():
  """(kind, reference, prediction, lowest, highest, why) of every line of pairs.tsv."""
  for line in (HERE / 'pairs.tsv').read_text(encoding='utf-8').splitlines():
    if not line.startswith('#'):
      kind, reference, prediction, want, why = line.split('\t')
      low, _, high = want.partition('..')
      yield kind, reference, prediction, float(low), float(high or low), why


@pytest.mark.parametrize('kind', KINDS)
def test_own_pairs(kind):
  wrong = []
  pairs = [p for p in own_pairs() if p[0] == kind]
  for _, reference, prediction, low, high, why in pairs:
    got = score(reference, prediction, kind)
    if not low - 1e-9 <= got.points <= high + 1e-9:
      wrong.append(f'{why}: {reference!r} against {prediction!r} wants {low}..{high}, got {got}')
  assert len(pairs) >= 13
  assert not wrong, '\n'.join(wrong)


def test_every_reference_is_its_own_answer():
  parsed = 0
  for kind, reference, _, _, _, why in own_pairs():
    got = score(reference, rf'\,{reference}', kind)
    parsed += got.status == 'ok'
    assert got.points == 100 or got.flags == ('reference',), (why, reference, got)
  assert parsed > 290


def test_development_pairs():
  ordinary, strict, false_full = [], [], []
  for line in DEVELOPMENT.read_text(encoding='utf-8').splitlines():
    row = json.loads(line)
    low, high = row['want']
    got = score(row['gt'], row['pred'], row['type'])
    if low is None:
      continue
    inside = low - 1e-4 <= got.points <= high + 1e-4
    group = strict if row['group'] in ('identical', 'wrong', 'malformed', 'tol') else ordinary
    group.append((inside, row['id'], got))
    if got.points == 100 and high < 100:
      false_full.append(row['id'])
  assert len(ordinary) + len(strict) > 90
  assert not false_full
  assert [x for x in strict if not x[0]] == []
  assert sum(x[0] for x in ordinary) >= 0.97 * len(ordinary), [x for x in ordinary if not x[0]]
