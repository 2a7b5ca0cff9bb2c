"""Generation against transformers' own loop: prompt, both branches, solver, decoder and semantic feedback."""

import numpy as np
import pytest

from bench.perf import vibevoice as bench

pytestmark = pytest.mark.parity


def test_four_frames_of_a_free_run_are_as_exact_as_those_of_transformers():
  """Random weights amplify rounding from frame to frame, so float64 says how much of a gap is rounding."""
  options = bench.Options(width=128, layers=2, filters=2, prompt=12, frames=4, steps=5)
  net = bench.reference(options)
  both = bench.arms(options, net, *bench.converted(net))
  got, single = both['ours'](), both['theirs']()
  net.double()
  exact = both['theirs']()
  assert exact.shape[0] == 4
  ours, theirs = (np.abs(x - exact).max(1) / exact.std() for x in (got, single))
  assert ours[0] <= 1e-3
  assert (ours <= 4 * theirs + 1e-4).all(), (ours, theirs)
