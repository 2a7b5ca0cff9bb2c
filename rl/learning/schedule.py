"""The stages of a run, and how far it has come: host state of the loop."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rl.rollout.collect import Collected
from rl.rollout.groups import Plan


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of the run with its own plan.

  tries, tried: with a plan of tries, that many queries are tried as the stage begins, and those that are not right in
  every try are drawn from. reset: whether the optimiser is reset.
  """

  steps: int
  plan: Plan
  tries: Plan | None = None
  tried: int = 0
  reset: bool = False


class Schedule:
  """Stages one after another. Rollouts are numbered from 0 through all of them."""

  def __init__(self, stages: Sequence[Stage]):
    self._stages = list(stages)
    self._starts = np.cumsum([0, *(stage.steps for stage in stages)])

  @property
  def steps(self) -> int:
    """Rollouts of all stages."""
    return int(self._starts[-1])

  def number(self, step: int) -> int:
    """The stage of a rollout, from 0."""
    return int(np.searchsorted(self._starts, step, 'right')) - 1

  @property
  def kinds(self) -> tuple[str, ...]:
    """Names of the kinds of trajectories, from the first plan that has several; see `rl.rollout.Plan`."""
    named = (getattr(stage.plan, 'kinds', ()) for stage in self._stages)
    return next(filter(None, named), ())

  def stage(self, step: int) -> Stage:
    """The stage of a rollout."""
    return self._stages[self.number(step)]

  def begins(self, step: int) -> bool:
    """Whether a rollout is the first of its stage."""
    return step == self._starts[self.number(step)]


class Progress:
  """Host state of the loop.

  next: the next query. only: the queries that the stage draws from. solved: nothing is left to learn. sampled: tokens
  of all rollouts so far.
  """

  def __init__(self, only: Sequence[int] | None = None):
    self.next = 0
    self.only = only
    self.solved = False
    self.sampled = 0

  def get_state(self) -> list:
    """For a checkpoint."""
    return [self.next, None if self.only is None else list(self.only), self.solved, self.sampled]

  def set_state(self, state: list) -> None:
    """From a checkpoint."""
    self.next, self.only, self.solved, self.sampled = state

  def take(self, collected: Collected) -> None:
    """Notes what a rollout used."""
    self.next = collected.next
    self.solved = collected.exhausted
    self.sampled += round(float(collected.metrics['tokens']))
