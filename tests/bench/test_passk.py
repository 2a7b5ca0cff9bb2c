import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from bench.passk import best_of_k, curve_points, maj_at_k, pass_at_k


def exact(n, c, k):
  return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@pytest.mark.parametrize(
  ('n', 'c', 'k', 'want'),
  [
    (1, 1, 1, 1),
    (16, 1, 1, 0.0625),
    (16, 1, 8, 0.5),
    (32, 1, 16, 0.5),
    (32, 1, 32, 1),
    (32, 3, 8, 0.5919354839),
    (64, 5, 32, 0.9735883424),
    (200, 7, 100, 0.9929911172),
    (1024, 10, 256, 0.9445112915),
    (10, 0, 5, 0),
  ],
)
def test_pass_at_k_of_the_published_formula(n, c, k, want):
  assert pass_at_k(n, c, k) == pytest.approx(want, abs=1e-10)


def test_pass_at_k_to_1e_12_at_ten_thousand():
  rng = np.random.default_rng(0)
  n = 10_000
  cases = [(0, 1), (1, n), (n, n), (9_999, 1), (5_000, 5_000), (1, 1), (3, 9_997), (3, 9_998)]
  cases += [(int(rng.integers(n + 1)), int(rng.integers(1, n + 1))) for _ in range(20)]
  for c, k in cases:
    assert abs(pass_at_k(n, c, k) - float(exact(n, c, k))) < 1e-12, (c, k)


@pytest.mark.parametrize(('n', 'c', 'k'), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_impossible_arguments_are_refused(n, c, k):
  with pytest.raises(ValueError, match='expected'):
    pass_at_k(n, c, k)


def test_majority_is_the_mean_over_all_subsets_and_does_not_depend_on_order():
  votes = ['a', 'a', 'b', 'b', None, 'c']
  correct = [True, True, False, False, False, False]

  def one(subset):
    counts = {v: sum(votes[i] == v for i in subset) for i in subset if (v := votes[i]) is not None}
    leaders = [v for v, count in counts.items() if count == max(counts.values())]
    return sum(v == 'a' for v in leaders) / len(leaders) if leaders else 0

  for k in range(1, 7):
    subsets = list(itertools.combinations(range(6), k))
    want = sum(map(one, subsets)) / len(subsets)
    assert maj_at_k(votes, correct, k) == pytest.approx(want)
    assert maj_at_k(votes[::-1], correct[::-1], k) == pytest.approx(want)


def test_majority_over_random_subsets_is_seeded_and_close():
  votes, correct = ['x'] * 20 + ['y'] * 12, [True] * 20 + [False] * 12
  value = maj_at_k(votes, correct, 5)
  assert value == maj_at_k(votes, correct, 5)
  want = sum(math.comb(20, i) * math.comb(12, 5 - i) for i in (3, 4, 5)) / math.comb(32, 5)
  assert value == pytest.approx(want, abs=0.05)
  assert maj_at_k([None] * 3, [False] * 3, 2) == 0


def test_best_of_k_is_the_mean_over_all_subsets():
  rewards, correct = [0.1, 0.9, 0.5, 0.9, 0.2], [0, 1, 1, 0, 0]
  for k in range(1, 6):
    total = 0.0
    subsets = list(itertools.combinations(range(5), k))
    for subset in subsets:
      top = max(rewards[i] for i in subset)
      tied = [correct[i] for i in subset if rewards[i] == top]
      total += sum(tied) / len(tied)
    assert best_of_k(rewards, correct, k) == pytest.approx(total / len(subsets))
  with pytest.raises(ValueError, match='finite'):
    best_of_k([math.nan, 1], [0, 1], 1)


def test_curves_end_at_n():
  assert curve_points(1) == [1]
  assert curve_points(12) == [1, 2, 4, 8, 12]
  assert curve_points(32) == [1, 2, 4, 8, 16, 32]
