"""`mode='compat'` against the published scorer's own scores, stored beside the development pairs."""

import importlib.metadata
import json

import pytest

from bench.seed import score_many
from tests.bench.seed.test_pairs import DEVELOPMENT

pytest.importorskip('latex2sympy2_extended', reason='the extra `compat` is not installed')


@pytest.mark.slow
def test_matches_the_published_scorer():
  newer = importlib.metadata.version('latex2sympy2_extended') >= '1.11'
  rows = [json.loads(line) for line in DEVELOPMENT.read_text(encoding='utf-8').splitlines()]
  rows = [r for r in rows if r['group'] != 'huge']
  scores = score_many([(r['gt'], r['pred'], r['type']) for r in rows], processes=2, mode='compat', limit=60)
  want = [r['ref_score_alt' if newer else 'ref_score'] or 0 for r in rows]
  differ = [(r['id'], s.points, w) for r, s, w in zip(rows, scores, want) if abs(s.points - w) > 0.01]
  assert len(differ) <= 0.05 * len(rows), differ
  assert all(s.mode == 'compat' for s in scores)
