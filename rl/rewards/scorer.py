"""Rewards of groups of responses as arrays, computed by guarded functions.

P queries   G responses to each   R reward components
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rl.query import Query
from rl.rewards.bundle import Bundle, Values
from rl.rewards.guard import Guard
from rl.rewards.registry import Reward, resolve

ALONE = 'reward'  # component of a reward that is given without a name and returns a number


@dataclasses.dataclass(frozen=True)
class Scored:
  """Rewards of P groups of G responses.

  names: of the R components. weights: float32 [R] in their sum. rewards: float32 [P, G, R]. valid: bool [P, G], false
  for a response that is left out. right: float32 [P, G] of 0 and 1, or None where no reward says what is right. lost:
  why a response, by (query, place in the group), has no reward of its own.
  """

  names: tuple[str, ...]
  weights: np.ndarray
  rewards: np.ndarray
  valid: np.ndarray
  right: np.ndarray | None
  lost: dict[tuple[int, int], str]

  @property
  def totals(self) -> np.ndarray:
    """Float32 [P, G]: weighted sums of the components."""
    return (self.rewards * self.weights).sum(-1)

  def add(self, name: str, values: np.ndarray, weight: float = 1.0) -> 'Scored':
    """With one more component, float [P, G], such as `rl.rewards.overlong` of the lengths."""
    rewards = np.concatenate([self.rewards, np.float32(values)[..., None]], -1)
    weights = np.append(self.weights, np.float32(weight))
    return dataclasses.replace(self, names=(*self.names, name), weights=weights, rewards=rewards)


class Scorer:
  """Scores groups of responses by one or several rewards, each call under a time limit.

  rewards: as `rl.rewards.resolve` takes them. example: a query, on whose own solution every reward is tried first, so
  that one that fails stops the run before it starts; it also names the components. seconds: limit of the rewards of a
  response, and of a group's reward. otherwise: each component of a response whose reward fails or is late; None leaves
  the response out. A policy can make a checker fail by what it writes and may learn to, so such a response is best
  counted as wrong; leave out what is no fault of the response, such as a judge that is down.
  Raises ValueError for a reward that cannot be used, ModuleNotFoundError for a missing package.
  """

  def __init__(
    self, rewards: Any, example: Query, *, seconds: float = 10.0, workers: int = 2, otherwise: float | None = 0.0
  ):
    self._rewards, self._otherwise = resolve(rewards), otherwise
    self._right = _accuracy(self._rewards)
    self._guard = Guard(Bundle(self._rewards, self._right), seconds=seconds, workers=workers)
    try:
      self.weights = self._rehearse(example)
    except BaseException:
      self.close()
      raise

  def _rehearse(self, example: Query) -> dict[str, float]:
    """Weights by component, from the rewards of a query's own solution."""
    (((values, _, reason),),) = self._evaluate([example], [[example.solution]])
    if reason:
      raise ValueError(f'the rewards fail on the solution of a query, {example.solution!r:.80}: {reason}')
    weights = {}
    for name, reward in self._rewards.items():
      weights |= _weights(name, reward, values[name])
    return weights

  def __call__(self, queries: Sequence[Query], responses: Sequence[Sequence[Any]]) -> Scored:
    """Rewards of the responses to each query, G to every one of P."""
    found = self._evaluate(queries, responses)
    shape = len(queries), len(responses[0]) if len(responses) else 0
    rewards, right = np.zeros((*shape, len(self.weights)), np.float32), np.zeros(shape, np.float32)
    valid, lost = np.ones(shape, bool), {}
    for place in np.ndindex(shape):
      values, right[place], reason = found[place[0]][place[1]]
      components = _flat(values)
      if not reason and components.keys() != self.weights.keys():
        reason = f'components {", ".join(components)}: expected {", ".join(self.weights)}'
      if reason:
        lost[place], valid[place], rewards[place] = reason, self._otherwise is not None, self._otherwise or 0.0
      else:
        rewards[place] = [components[name] for name in self.weights]
    weights = np.array(list(self.weights.values()), np.float32)
    return Scored(tuple(self.weights), weights, rewards, valid, right if self.knows_right else None, lost)

  def _evaluate(self, queries, responses) -> list[list[tuple[Values, float, str]]]:
    """Of each response its values by reward, whether it is right, and why it was lost if it was."""
    together = any(reward.group for reward in self._rewards.values())
    jobs = []
    for query, group in zip(queries, responses, strict=True):
      whole = [('group', list(group))] if together else []
      jobs.append(((query,), [*(('each', response) for response in group), *whole]))
    found = []
    for outcomes, group in zip(self._guard(jobs), responses):
      shared = outcomes[len(group)] if together else None
      found.append([_merged(outcome, shared, g) for g, outcome in enumerate(outcomes[: len(group)])])
    return found

  @property
  def knows_right(self) -> bool:
    """Whether a reward says what a right response is."""
    return self._right is not None

  def right(self, queries: Sequence[Query], responses: Sequence[Sequence[Any]]) -> np.ndarray:
    """Bool [P, G]: whether each response is right; one whose check fails or is late is not.

    Raises ValueError where no reward says what is right.
    """
    if not self.knows_right:
      raise ValueError('no reward says what a right response is')
    jobs = [
      ((query,), [('right', response) for response in group]) for query, group in zip(queries, responses, strict=True)
    ]
    return np.array([[o.value == 1 for o in outcomes] for outcomes in self._guard(jobs)], bool)

  def close(self) -> None:
    """Ends the processes."""
    self._guard.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _accuracy(rewards: Mapping[str, Reward]) -> Callable | None:
  """What counts as right: as the only reward that has an opinion says. Raises ValueError where several have."""
  known = [reward.right for reward in rewards.values() if reward.right is not None]
  if len(known) > 1:
    raise ValueError(f'rewards={", ".join(rewards)}: {len(known)} of them say what is right; expected at most one')
  return known[0] if known else None


def _merged(outcome, shared, g: int) -> tuple[Values, float, str]:
  """(values, verdict, reason) of response g, from its own call and that of its group."""
  reason = outcome.reason or (shared.reason if shared else '')
  if reason:
    return {}, 0.0, reason
  values, right = outcome.value
  return values | (shared.value[g] if shared else {}), right, ''


def _flat(values: Values) -> dict[str, float]:
  return {_component(name, key): number for name, own in values.items() for key, number in own.items()}


def _component(name: str, key: str) -> str:
  """`reward.component`, whichever of them has a name."""
  return '.'.join(part for part in (name, key) if part) or ALONE


def _weights(name: str, reward: Reward, own: Mapping[str, float]) -> dict[str, float]:
  """Weights by component of a reward that returned `own`."""
  if not isinstance(reward.weights, Mapping):
    return {_component(name, key): reward.weights for key in own}
  if reward.weights.keys() != own.keys():
    expected, got = ', '.join(reward.weights), ', '.join(own) or 'none'
    raise ValueError(f'reward {name!r} returns components {got}: expected those that have a weight, {expected}')
  return {_component(name, key): reward.weights[key] for key in own}
