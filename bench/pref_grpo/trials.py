"""The trials of the study: two arms, three learning rates, one seed to choose on and three that are reported."""

import dataclasses
import pathlib

from bench.recipes import trials
from bench.recipes.trials import CHOOSING, REPORTED, column, curve

ARMS = ('pref_grpo', 'flow_grpo')  # configurations of rl.train: comparisons of images, and a score of each
RATES = (3e-5, 1e-4, 3e-4)
GUIDANCE = 4.5  # of one more trial of comparisons
ROLLOUTS = 60
LAST = 10  # rollouts over which the start and the end of a trial are averaged
CHOICE = 'right'  # by the held-out judge: each arm is given its best chance at what is wanted


@dataclasses.dataclass(frozen=True)
class Trial(trials.Trial):
  """One run, with its classifier-free guidance."""

  guidance: float = 1.0

  @property
  def name(self) -> str:
    """Of its folder."""
    guided = '' if self.guidance == 1 else f'-guidance{self.guidance:g}'
    return f'{super().name}{guided}'


def choosing() -> list[Trial]:
  """Trials that choose the learning rates."""
  return [Trial(arm, rate, CHOOSING) for arm in ARMS for rate in RATES]


def reported(arm: str, rate: float) -> list[Trial]:
  """An arm's trials at a learning rate."""
  return [Trial(arm, rate, seed) for seed in REPORTED]


def guided(rate: float) -> Trial:
  """Comparisons with classifier-free guidance."""
  return Trial('pref_grpo', rate, REPORTED[0], GUIDANCE)


def every(folder: pathlib.Path) -> list[Trial]:
  """All trials that have ended."""
  seeds = (CHOOSING, *REPORTED)
  plain = [Trial(arm, rate, seed) for arm in ARMS for rate in RATES for seed in seeds]
  planned = [*plain, *map(guided, RATES)]
  return [trial for trial in planned if ended(folder, trial)]


def best_rate(folder: pathlib.Path, arm: str, measure: str = CHOICE) -> float:
  """The learning rate with the highest measure at the end of its trial on the seed that is not reported.

  Raises OSError before those trials have begun.
  """
  return trials.best_rate(arm, RATES, lambda trial: at_end(curve(folder, trial), measure))


def ended(folder: pathlib.Path, trial: Trial) -> bool:
  """Whether a trial has come to its end."""
  return (folder / trial.name / 'results.json').exists()


def at_start(rollouts: list[dict], measure: str) -> float:
  """The mean of a metric over the first rollouts."""
  first = column(rollouts[:LAST], measure)
  return float(first.mean())


def at_end(rollouts: list[dict], measure: str) -> float:
  """The mean of a metric over the last rollouts."""
  last = column(rollouts[-LAST:], measure)
  return float(last.mean())
