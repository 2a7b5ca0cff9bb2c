"""The arithmetic of the long run: what is left out, the line of bytes, drift."""

import pytest

from bench.perf.vibevoice_long import WINDOW, Point, drift, fitted, settled


def series(extra=0.0):
  made = []
  for number in range(1, 97):
    frame = number * WINDOW
    slots = 4096 if frame < 4032 else 8192 if frame < 8128 else 16384 if frame < 16320 else 32768
    compiles = number == 1 or 3 * slots // 4 - WINDOW <= frame <= 3 * slots // 4 + WINDOW
    made.append(Point(frame, slots, 1 + slots / 4096 + 100 * compiles + extra * frame, 500.0))
  return made


def test_compilation_is_left_out_and_the_line_is_that_of_the_bytes():
  steady = settled(series())
  assert max(point.milliseconds for point in steady) < 10
  medians, line = fitted(steady)
  assert medians == {4096: 2, 8192: 3, 16384: 5, 32768: 9}
  assert line == pytest.approx([1 / 4096, 1])


def test_drift_is_relative_to_the_last_bucket():
  assert drift(settled(series())) == pytest.approx(0, abs=1e-9)
  assert drift(settled(series(extra=1e-4))) > 0.03
