"""Rewards called in this process, without a time limit."""

from collections.abc import Callable, Iterable

from rl.rewards.guards.guard import Job
from rl.rewards.guards.limited import Outcome


class Direct:
  """A `guard.Guard` for a function that holds what no other process can have: a connection, a model.

  Its own time-outs apply, and what it raises ends the run.
  """

  def __init__(self, function: Callable):
    self._function = function

  def __call__(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
    """For each job the outcomes of its calls, in order."""
    return [[Outcome(self._function(*shared, *call)) for call in calls] for shared, calls in jobs]

  def close(self) -> None:
    """Nothing is held."""
