"""What passes between the loop and a rollout plan."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rl.policy import Trajectory
from rl.query import Query


@dataclasses.dataclass(frozen=True)
class Ask:
  """What a plan is asked for.

  step: the number of the rollout. numbers: of the queries, in the stream that all processes draw from. first: the
  number with which this rollout began there. queries and their prompts: in the order of the numbers.
  """

  step: int
  first: int
  numbers: Sequence[int]
  queries: Sequence[Query]
  prompts: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Group:
  """The trajectories of one query and what they are worth, G of them with R reward components.

  weights: float32 [R]. rewards: float32 [G, R]. totals: float32 [G], their weighted sums. right: float32 [G], 1 for a
  right response, or the total where nothing says what is right. valid: bool [G], false for one that is left out. lost:
  bool [G], whose reward failed or was late.
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

  def only(self, chosen: Sequence[int]) -> 'Group':
    """The group with only these of its trajectories."""
    at = np.asarray(chosen, int)
    arrays = {name: getattr(self, name)[at] for name in ('rewards', 'totals', 'right', 'valid', 'lost')}
    return dataclasses.replace(self, trajectories=[self.trajectories[i] for i in at], **arrays)


class Plan(Protocol):
  """How a rollout is made: a function over the engine, of the weights, the ask and nothing else."""

  def __call__(self, sampler: Any, ask: Ask) -> list[list[Trajectory]]:
    """A group of trajectories for each prompt, in their order."""


@dataclasses.dataclass(frozen=True)
class Selected:
  """What is trained on. kept: for each group the places of the trajectories that stay, none to drop it.

  metrics: name to (total, what it is divided by), summed over the processes.
  """

  kept: Sequence[Sequence[int]]
  metrics: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


Select = Callable[[Ask, Sequence[Group]], Selected]


def everything(ask: Ask, groups: Sequence[Group]) -> Selected:
  """Trains on all trajectories."""
  return Selected([range(len(group.trajectories)) for group in groups])
