"""Win rates: pairs, ties, swapped orders, failing and one-sided judges."""

import itertools

import numpy as np
import pytest

from rl import advantages
from rl.query import Query
from rl.rewards import Reward, Scorer
from rl.rewards.comparisons import pairs_of, win_rates
from rl.rewards.pairwise import WEIGHTS, JudgeFailed, OneSidedJudge, Pairwise, rates

QUERY = Query([{'role': 'user', 'content': 'a seven'}], solution='0')


def larger(prompt, first, second):
  """An antisymmetric judge of numbers."""
  assert prompt == 'a seven'
  if first == second:
    return 'tie'
  return 'first' if first > second else 'second'


def test_a_transitive_order_of_four():
  got = Pairwise(larger)(QUERY, [3, 1, 4, 2])
  np.testing.assert_allclose(rates(got), [2 / 3, 0, 1, 1 / 3])
  gain = np.asarray(advantages.grpo(np.float32([rates(got).round(3)])))[0]
  np.testing.assert_allclose(gain, [0.387995, -1.161662, 1.161662, -0.387995], atol=5e-6)  # of 0, .333, .667, 1


def test_rounding_is_an_option():
  pairs = pairs_of(4)
  outcomes = [1.0] * len(pairs)
  assert win_rates(4, pairs, outcomes, decimals=3).tolist() == [1.0, 0.667, 0.333, 0.0]
  assert win_rates(4, pairs, outcomes)[1] == 2 / 3


@pytest.mark.parametrize('n', [2, 3, 8, 9])
def test_rates_of_an_antisymmetric_judge_sum_to_half_the_group(n):
  samples = np.random.default_rng(n).integers(0, 5, n).tolist()
  for order in ('fixed', 'alternate', 'both'):
    got = rates(Pairwise(larger, order=order)(QUERY, samples))
    assert abs(got.sum() - n / 2) < 1e-12


def test_an_order_blind_judge_gives_the_same_in_every_order():
  samples = [3, 1, 1, 7, 5]
  results = [Pairwise(larger, order=order)(QUERY, samples) for order in ('fixed', 'alternate', 'both')]
  assert results[0] == results[1] == results[2]


def test_contradicting_orders_are_ties_and_lower_the_agreement():
  biased = lambda prompt, first, second: 'first' if abs(first - second) < 2 else larger(prompt, first, second)
  got = Pairwise(biased, order='both')(QUERY, [1, 2, 5])
  np.testing.assert_allclose(rates(got), [0.25, 0.25, 1])
  assert [sample['agreement'] for sample in got] == [0.5, 0.5, 1.0]
  assert [sample['ties'] for sample in got] == [0.5, 0.5, 0.0]


def test_a_failing_request_is_a_tie():
  def failing(prompt, first, second):
    if 9 in (first, second):
      raise JudgeFailed('no reply')
    return larger(prompt, first, second)

  got = Pairwise(failing)(QUERY, [1, 2, 9])
  np.testing.assert_allclose(rates(got), [0.25, 0.75, 0.5])
  assert [sample['failed'] for sample in got] == [0.5, 0.5, 1.0]


def test_a_one_sided_judge_stops_the_run():
  compare = Pairwise(lambda prompt, first, second: 'first', patience=20)
  compare(QUERY, [1, 2, 3, 4])
  with pytest.raises(OneSidedJudge, match="answered 'first' to each of the last 24"):
    for _ in range(3):
      compare(QUERY, [1, 2, 3, 4])


def test_an_unknown_verdict_is_an_error():
  with pytest.raises(ValueError, match="'Image 1'"):
    Pairwise(lambda prompt, first, second: 'Image 1')(QUERY, [1, 2])


@pytest.mark.parametrize('n, opponents', [(8, 3), (8, 4), (9, 4), (8, 7), (12, 2)])
def test_a_subset_compares_every_sample_equally_often(n, opponents):
  pairs = pairs_of(n, opponents, seed=3)
  assert len(set(pairs)) == len(pairs) and all(i < j for i, j in pairs)
  assert np.bincount(np.ravel(pairs), minlength=n).tolist() == [opponents] * n
  assert set(pairs) <= set(itertools.combinations(range(n), 2))


@pytest.mark.parametrize('n, opponents', [(9, 3), (8, 8), (8, 1)])
def test_a_subset_that_no_ring_has_is_refused(n, opponents):
  with pytest.raises(ValueError, match=f'opponents={opponents} in groups of {n}'):
    pairs_of(n, opponents)


def test_the_scorer_calls_it_in_this_process():
  calls = []

  def judge(prompt, first, second):
    calls.append((first, second))
    return larger(prompt, first, second)

  reward = Reward(Pairwise(judge, workers=1), weights=WEIGHTS, group=True, direct=True)
  with Scorer({'preference': reward, 'longer': (lambda query, sample: len(sample), 0.5)}, QUERY) as scorer:
    scored = scorer([QUERY], [['1', '22', '333']])
  np.testing.assert_allclose(scored.totals, [[0 + 0.5, 0.5 + 1.0, 1.0 + 1.5]])
  assert len(calls) == 3
  assert scored.names == ('preference.win', 'preference.ties', 'preference.failed', 'preference.agreement', 'longer')


def test_scores_as_win_rates_keep_only_the_order():
  scores = np.float32([[0.70, 0.71, 0.90, 0.10], [1, 1, 2, 3]])
  gain = np.asarray(advantages.win_rate(scores))
  expected = advantages.grpo(np.float32([[1 / 3, 2 / 3, 1, 0], [1 / 6, 1 / 6, 2 / 3, 1]]))
  np.testing.assert_allclose(gain, expected, atol=1e-6)
  valid = np.array([[True, True, False, True], [True, True, True, True]])
  assert np.asarray(advantages.win_rate(scores, valid))[0].tolist() == pytest.approx([0.0, 1.0, 0.0, -1.0], abs=1e-5)
