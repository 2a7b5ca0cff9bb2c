"""The trials of a study: each arm tries learning rates on one seed, and reports three others at the best of them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

CHOOSING = 0  # the seed on which each arm's learning rate is chosen
REPORTED = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run. The seed is of queries and of sampling; all trials of a study start from one trained model."""

  arm: str
  rate: float
  seed: int

  @property
  def name(self) -> str:
    """Of its folder."""
    return f'{self.arm}-{self.rate:g}-seed{self.seed}'


def choosing(arm: str, rates: Sequence[float]) -> list[Trial]:
  """An arm's trials that choose its learning rate."""
  return [Trial(arm, rate, CHOOSING) for rate in rates]


def reported(arm: str, rate: float) -> list[Trial]:
  """An arm's trials at a learning rate."""
  return [Trial(arm, rate, seed) for seed in REPORTED]


def best_rate(arm: str, rates: Sequence[float], reached: Callable[[Trial], float]) -> float:
  """The learning rate with which an arm reached most on the seed that is not reported; of equals the first."""
  best = max(choosing(arm, rates), key=reached)
  return best.rate


def curve(folder: pathlib.Path, trial: Trial) -> list[dict]:
  """The metrics of each rollout of a trial."""
  path = folder / trial.name / 'metrics.jsonl'
  text = path.read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def column(rollouts: Sequence[dict], measure: str) -> np.ndarray:
  """float64 [rollouts]: one metric of each."""
  values = [rollout[measure] for rollout in rollouts]
  return np.array(values)
