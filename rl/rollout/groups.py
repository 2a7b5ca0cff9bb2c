"""What passes between the loop and a rollout plan."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rl.policy import Trajectory
from rl.query import Query

Totals = dict[str, tuple[float, float]]  # metrics as (sum, divisor), both added up over processes


@dataclasses.dataclass(frozen=True)
class Ask:
  """What a plan is asked for.

  step: the number of the rollout. numbers: of the queries, in the stream that all processes draw from. first: the
  number with which this rollout began there. queries and their prompts: in the order of the numbers. grade: rewards,
  for a plan that needs them to continue; None outside training.
  """

  step: int
  first: int
  numbers: Sequence[int]
  queries: Sequence[Query]
  prompts: Sequence[Any]
  grade: 'Grade | None' = None


@dataclasses.dataclass(frozen=True)
class Group:
  """The trajectories of one query and what they are worth, G of them with R reward components.

  weights: float32 [R]. rewards: float32 [G, R]. totals: float32 [G], their weighted sums. right: float32 [G], 1 for a
  right response, or the total where nothing says what is right. valid: bool [G], false for one that is left out. lost:
  bool [G], whose reward failed or was late. names: of the R components.
  """

  number: int
  query: Query
  trajectories: list[Trajectory]
  weights: np.ndarray
  rewards: np.ndarray
  totals: np.ndarray
  right: np.ndarray
  valid: np.ndarray
  lost: np.ndarray
  names: tuple[str, ...] = ('reward',)

  def only(self, chosen: Sequence[int]) -> 'Group':
    """The group with only these of its trajectories."""
    at = np.asarray(chosen, int)
    arrays = {name: getattr(self, name)[at] for name in ('rewards', 'totals', 'right', 'valid', 'lost')}
    return dataclasses.replace(self, trajectories=[self.trajectories[i] for i in at], **arrays)

  def summed(self) -> 'Group':
    """The group with the weighted sum of its components as its only component."""
    return dataclasses.replace(self, names=('reward',), weights=np.ones(1, np.float32), rewards=self.totals[:, None])


class Grade(Protocol):
  """Rewards by the scorer of the run."""

  def __call__(
    self, queries: Sequence[Query], trajectories: Sequence[list[Trajectory]], numbers: Sequence[int]
  ) -> list[Group]:
    """Groups of as many trajectories each, rewarded; numbers: of the queries, for `Group.number`."""


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What a plan returns that asks for rewards itself, by `Ask.grade`.

  asked: the group of each query, which metrics such as the mean reward are of. further: groups that were sampled as
  well. kept: those of both that are trained on. Groups that are trained on have the same reward components.
  """

  asked: list[Group]
  further: list[Group]
  kept: list[Group]
  metrics: Totals = dataclasses.field(default_factory=dict)


class Plan(Protocol):
  """How a rollout is made: a function over the engine, of the weights, the ask and nothing else.

  A plan whose trajectories are of several kinds has their names in an attribute `kinds`, by `Trajectory.kind`; metrics
  of updates are then given for each kind too.
  """

  def __call__(self, sampler: Any, ask: Ask) -> list[list[Trajectory]] | Rollout:
    """A group of trajectories for each prompt, in their order; or a rollout that is rewarded already."""


@dataclasses.dataclass(frozen=True)
class Selected:
  """What is trained on. kept: for each group the places of the trajectories that stay, none to drop it.

  metrics: name to (total, what it is divided by), summed over the processes.
  """

  kept: Sequence[Sequence[int]]
  metrics: Totals = dataclasses.field(default_factory=dict)


Select = Callable[[Ask, Sequence[Group]], Selected]


def everything(ask: Ask, groups: Sequence[Group]) -> Selected:
  """Trains on all trajectories."""
  return Selected([range(len(group.trajectories)) for group in groups])
