"""Curves of trials: each seed thinly, and their mean."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.report import charts


class Points(NamedTuple):
  """A metric of one trial, float64 [N] each: where it was measured, in rising order, and its values."""

  x: np.ndarray
  y: np.ndarray


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
  """A moving average over the `window` values up to each, of fewer at the start."""
  padded = np.pad(values, (1, 0))
  sums = np.cumsum(padded)
  ends = np.arange(1, len(sums))
  starts = np.maximum(ends - window, 0)
  counts = ends - starts
  return (sums[ends] - sums[starts]) / counts


def mean(trials: Sequence[Points]) -> Points:
  """The mean of the trials as far as all of them go, at the places of the first; between places they are straight."""
  end = min(trial.x[-1] for trial in trials)
  places = trials[0].x
  shared = places[places <= end]
  values = [np.interp(shared, trial.x, trial.y) for trial in trials]
  return Points(shared, np.mean(values, 0))


def draw(axis: Any, trials: Sequence[Points], *, label: str, color: str) -> None:
  """The trials of one arm on an axis."""
  for trial in trials:
    axis.plot(trial.x, trial.y, color=color, linewidth=0.7, alpha=0.5)
  x, y = mean(trials)
  charts.curve(axis, x, y, label=label, color=color, linewidth=2)
