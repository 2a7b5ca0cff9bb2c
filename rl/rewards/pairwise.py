"""Rewards of (response, right answer) pairs one by one, as the present rollouts ask for them."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from rl.rewards import guard


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Of N samples: values float32 [N]; valid bool [N]; why each of the lost ones has no reward of its own."""

  values: np.ndarray
  valid: np.ndarray
  lost: dict[int, str]


class Guard:
  """`Guard(function)(calls)`: function(*call), a finite number, for each of the calls; a lost one is `otherwise`."""

  def __init__(self, function: Callable[..., float], *, seconds: float = 10.0, otherwise: float = 0.0):
    self._guard, self._otherwise = guard.Guard(function, seconds=seconds), otherwise

  def __call__(self, calls: Iterable[tuple]) -> Rewards:
    """Rewards in the order of the calls."""
    calls = list(calls)
    outcomes = [o for job in self._guard([((), calls[i : i + 64]) for i in range(0, len(calls), 64)]) for o in job]
    lost = {i: o.reason for i, o in enumerate(outcomes) if o.reason or not np.isfinite(o.value)}
    values = np.array([self._otherwise if i in lost else o.value for i, o in enumerate(outcomes)], np.float32)
    return Rewards(values, np.ones(len(values), bool), lost)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._guard.close()
