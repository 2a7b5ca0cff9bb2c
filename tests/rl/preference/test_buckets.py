"""Buckets for pairs of many lengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy import Slots
from rl.preference import Limits, divide


@settings(max_examples=50, deadline=None)
@given(
  st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 5)), min_size=1, max_size=60),
  st.integers(1, 6),
  st.integers(1, 9),
)
def test_buckets_hold_every_pair_that_fits_once_and_never_waste_more(needs, most, least):
  needs = np.array([Slots(prompt, response, 2, tiles) for prompt, response, tiles in needs])
  limits = Limits(1500, 1700, 4)
  fitting = np.flatnonzero((needs <= limits.slots).all(1)).tolist()
  if not fitting:
    with pytest.raises(ValueError, match='none of'):
      divide(needs, limits, most=most, least=least)
    return
  buckets = divide(needs, limits, most=most, least=least)
  assert sorted(int(i) for b in buckets for i in b.numbers) == fitting and len(buckets) <= most
  assert len(buckets) == 1 or min(len(b.numbers) for b in buckets) >= least
  for b in buckets:
    assert (needs[b.numbers] <= b.slots).all() and (np.array(b.slots) <= limits.slots).all()
  cost = lambda buckets: sum(b.tokens for b in buckets)
  whole = divide(needs, limits, most=1, least=least)
  assert cost(buckets) <= cost(whole) <= len(fitting) * (limits.prompt + 2 * limits.response)


def test_the_cut_that_saves_most_comes_first():
  needs = np.array([Slots(100, 100, 2, 0)] * 4 + [Slots(100, 900, 2, 1)] * 4 + [Slots(900, 900, 2, 3)] * 2)
  found = divide(needs, Limits(1024, 1024, 4), most=2, least=2)
  assert [b.numbers.tolist() for b in found] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
  assert [b.slots for b in found] == [Slots(128, 128, 2, 0), Slots(1024, 1024, 2, 3)]
  found = divide(needs, Limits(1024, 1024, 4), most=3, least=2)
  assert [len(b.numbers) for b in found] == [4, 4, 2] and found[1].slots == Slots(128, 1024, 2, 1)
