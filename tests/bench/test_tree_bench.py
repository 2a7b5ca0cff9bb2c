"""The bench of trees: lengths that are drawn, and figures against sums by hand."""

import numpy as np
import pytest

from bench.perf.kit.trees import Lengths
from bench.perf.tree import Cost, gain

LENGTHS = Lengths(median=56, spread=0.5, longest=112)


def test_lengths_beyond_a_place_are_the_part_of_all_lengths_beyond_it():
  every = np.array([LENGTHS.draw((0, i)) for i in range(4000)])
  assert np.median(every) == pytest.approx(56, abs=2)
  assert (every == 112).mean() == pytest.approx(0.083, abs=0.02)  # of a normal, beyond log(2) / 0.5 deviations
  later = np.array([LENGTHS.draw((1, i), beyond=64) for i in range(2000)])
  assert later.min() == 65 and later.max() == 112
  assert later.mean() == pytest.approx(every[every > 64].mean(), abs=2)
  assert LENGTHS.draw((2, 0), beyond=10**6) == 112


def test_the_gain_is_of_throughput_and_its_bound_of_decoded_tokens():
  flat = Cost(decoded=150, prefilled=1, delivered=150, requests=2, seconds=6.0)
  tree = Cost(decoded=100, prefilled=1, delivered=160, requests=9, seconds=5.0)
  assert list(gain(flat, tree).values()) == pytest.approx([20, 100 / 6, 50, 0.8])
