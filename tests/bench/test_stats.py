import numpy as np
import pytest

from bench.report import stats
from core.report.intervals import wilson


def test_intervals_have_the_width_of_the_binomial():
  rng = np.random.default_rng(0)
  num = (rng.random((500, 1)) < 0.4).astype(float)
  found = stats.estimate(num, np.ones_like(num))
  assert found.value == num.mean()
  assert (found.high - found.low) / 2 == pytest.approx(0.043, abs=0.004)
  low, high = wilson(num.sum(), 500)
  assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
  num, den = [[1.0], [0.0]], [[1.0], [9.0]]
  assert stats.estimate(num, den).value == pytest.approx(0.1)


def test_a_composite_is_the_mean_of_its_ratios():
  num, den = [[1.0, 0.0], [1.0, 3.0]], [[2.0, 0.0], [2.0, 4.0]]
  assert stats.estimate(num, den).value == pytest.approx((2 / 4 + 3 / 4) / 2)


def test_nothing_counted_is_none_and_never_nan():
  assert stats.estimate([[0.0]], [[0.0]]) == stats.Estimate(None, None, None, 0)


def test_paired_bootstrap_sees_what_unpaired_intervals_hide():
  rng = np.random.default_rng(1)
  hard = rng.random((200, 1))
  a, b, ones = (hard < 0.45).astype(float), (hard < 0.40).astype(float), np.ones((200, 1))
  both = stats.paired((a, ones), (b, ones))
  assert both.low > 0 and both.p < 0.05
  apart = stats.estimate(a, ones), stats.estimate(b, ones)
  assert apart[0].low < apart[1].high
  same = stats.paired((a, ones), (a, ones))
  assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_two_levels_are_wider_than_one_and_equal_draws_are_equal():
  rng = np.random.default_rng(2)
  num = (rng.random((60, 3)) < 0.5).astype(float)
  den = np.ones_like(num)
  two = stats.percentile(stats.two_level(num, den, seed=3))
  one = stats.percentile(stats.resampled(num.sum(1, keepdims=True), den.sum(1, keepdims=True), seed=3))
  assert two[1] - two[0] > one[1] - one[0]
  assert two == stats.percentile(stats.two_level(num, den, seed=3))
