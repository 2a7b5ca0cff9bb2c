"""The pool: the same scores whatever the processes, the order and the hash seed; late and dead workers
replaced."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.seed import Pool, Score, score, score_many
from tests.bench.seed.test_pairs import own_pairs
from tests.watchdog import ends

ROOT = Path(__file__).parents[3]
PAIRS = [(reference, prediction, kind) for kind, reference, prediction, *_ in own_pairs()][::4]
_DUMP = """
import json, sys
from bench.seed import score
pairs = json.load(sys.stdin)
print(json.dumps([(s.points, s.status, s.test, s.flags) for s in (score(*p) for p in pairs)]))
"""


@pytest.mark.slow
def test_order_processes_and_hash_seed_do_not_matter():
  here = [score(*p) for p in PAIRS]
  assert score_many(PAIRS, processes=1) == here
  assert score_many(PAIRS[::-1], processes=2)[::-1] == here
  dumps = {
    subprocess.run(
      [sys.executable, '-c', _DUMP],
      input=json.dumps(PAIRS),
      capture_output=True,
      text=True,
      cwd=ROOT,
      check=True,
      env={**os.environ, 'PYTHONHASHSEED': seed},
    ).stdout
    for seed in ('0', '1', '12345')
  }
  assert len(dumps) == 1


@pytest.mark.slow
def test_killed_workers_cost_nothing():
  with Pool(2) as pool:
    stop = threading.Event()

    def assassin():
      for _ in range(4):
        stop.wait(0.4)
        for worker in list(pool._workers)[:1]:
          if worker.ready:
            worker.process.kill()

    thread = threading.Thread(target=assassin)
    thread.start()
    scores = pool.score_many(PAIRS * 4)
    stop.set()
    thread.join()
  want = [score(*p) for p in PAIRS] * 4
  assert sum(a != b for a, b in zip(scores, want)) <= 1, 'at most a pair that met two killings'


def test_late_pairs_are_timeouts_and_the_rest_goes_on():
  slow = 'f(' * 150 + 'x' + ')' * 150
  pairs = [('x', 'x+0', 'Expression'), (slow, slow + '+1', 'Expression'), ('a', 'b', 'Expression')]
  with ends():
    scores = score_many(pairs, processes=1, limit=0.3)
  assert [s.status for s in scores] == ['ok', 'timeout', 'ok']
  assert scores[1] == Score(0.0, 'timeout') and scores[1].seconds == pytest.approx(0.3)


def test_results_are_reported_as_they_come():
  seen = {}
  scores = score_many(PAIRS[:10], processes=2, on_result=seen.__setitem__)
  assert [seen[k] for k in range(10)] == scores


def test_symbols_of_an_item_decide_what_i_and_e_are():
  pairs = [('i^2', '-1', 'Expression'), ('i^2', '-1', 'Expression', '$i$: an index')]
  assert [s.points == 100 for s in score_many(pairs, processes=1)] == [True, False]


def test_sympy_decides_what_numbers_cannot():
  # No sample is small enough for this tower, so only the form of the exponent can tell.
  tower = r'e^{e^{e^{e^{10+x}}}}'
  pair = (tower + r'\cdot(x+1)^2', tower + r'\cdot(x^2+2x+1)', 'Expression')
  assert score(*pair).flags == ('undecided',)
  (got,) = score_many([pair], processes=1)
  assert (got.points, got.test) == (100, 'symbolic')


def test_bad_settings_are_refused_before_any_work():
  for wrong in ({'processes': -1}, {'limit': 0}, {'memory': 1}):
    with pytest.raises(ValueError, match='expected'):
      Pool(**{'processes': 1} | wrong)
  with pytest.raises(ValueError, match='expected'):
    score('x', 'x', 'Essay')
  for wrong in ({'tiers': '2024-01'}, {'mode': 'lenient'}, {'log_base': '2'}, {'lone_unit': 'guess'}):
    with pytest.raises(ValueError, match='expected'):
      score('x', 'x', 'Numeric', **wrong)
  with pytest.raises(TypeError, match='text'):
    score(None, 'x', 'Expression')


def test_tiers_and_their_alias():
  assert score('100', '100.9', 'Numeric').points == 100
  assert score('100', '100.9', 'Numeric', tiers='2025-08').points == 90
  assert score('100', '100.9', 'Numeric', tiers='2025-11') == score('100', '100.9', 'Numeric', tiers='2025-10')
  assert score('100', '103', 'Numeric', tiers='2025-10').points == 80
  assert score('100', '103', 'Numeric', tiers='2025-08').points == 0


def test_other_settings():
  assert score(r'\log x', r'\frac{\ln x}{\ln 10}', 'Expression', log_base='10').points == 100
  assert score(r'\hat{x}', 'x', 'Expression').points == 100
  assert score(r'\hat{x}', 'x', 'Expression', hats=True).points < 60
  assert score(r'5\,\mathrm{m}', '5', 'Numeric').flags == ('lone_unit',)
  assert score(r'5\,\mathrm{m}', '5', 'Numeric', lone_unit='zero').points == 0
