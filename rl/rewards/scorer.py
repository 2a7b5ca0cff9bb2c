"""Rewards of groups of responses as arrays, computed by guarded functions.

P queries   G responses to each   R reward components
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rl.query import Query
from rl.rewards.guards.bundle import Bundle, Values
from rl.rewards.guards.direct import Direct
from rl.rewards.guards.guard import Guard
from rl.rewards.registry import Reward, resolve

ALONE = 'reward'  # the component of a reward without a name that returns a number


@dataclasses.dataclass(frozen=True)
class Scored:
  """Rewards of P groups of G responses.

  names: of the R components. weights: float32 [R] in their sum. rewards: float32 [P, G, R]. valid: bool [P, G], false
  for a response that is left out. right: float32 [P, G] of 0 and 1, or None if no reward judges correctness. lost:
  (query, place in the group) → the reason why that response has no reward.
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
    column = np.float32(values)[..., None]
    rewards = np.concatenate([self.rewards, column], -1)
    weights = np.append(self.weights, np.float32(weight))
    return dataclasses.replace(self, names=(*self.names, name), weights=weights, rewards=rewards)


class Scorer:
  """Scores groups of responses by one or several rewards, each call under a time limit.

  rewards: as `rl.rewards.resolve` takes them. example: a query; every reward is first tried on its solution, so that
  a broken one stops the run before it starts, and to learn the components' names. seconds: limit of the rewards of a
  response, and of a group's reward. otherwise: each component of a response whose reward fails or is late; None leaves
  the response out. A policy can learn to write text that makes a checker fail, so such a response should count as
  wrong; leave out only what is no fault of the response, such as a judge that is down. Where a reward is `direct`, all
  are called in this process, without a limit.
  Raises ValueError for a reward that cannot be used, ModuleNotFoundError for a missing package.
  """

  def __init__(
    self, rewards: Any, example: Query, *, seconds: float = 10.0, workers: int = 2, otherwise: float | None = 0.0
  ):
    self._rewards = resolve(rewards)
    self._otherwise = otherwise
    self._right = _accuracy(self._rewards)
    bundle = Bundle(self._rewards, self._right)
    direct = any(reward.direct for reward in self._rewards.values())
    self._guard = Direct(bundle) if direct else Guard(bundle, seconds=seconds, workers=workers)
    try:
      self.weights = self._rehearse(example)
    except BaseException:
      self.close()
      raise

  def _rehearse(self, example: Query) -> dict[str, float]:
    """Weights by component, from the rewards of a query's own solution."""
    ((outcome,),) = self._evaluate([example], [[example.solution]])
    values, _, reason = outcome
    if reason:
      raise ValueError(f'the rewards fail on the solution of a query, {example.solution!r:.80}: {reason}')
    weights = {}
    for name, reward in self._rewards.items():
      weights |= _weights(name, reward, values[name])
    return weights

  def __call__(self, queries: Sequence[Query], responses: Sequence[Sequence[Any]]) -> Scored:
    """Rewards of the responses to each query, G to every one of P."""
    outcomes = self._evaluate(queries, responses)
    samples = 0
    if len(responses):
      samples = len(responses[0])
    shape = (len(queries), samples)
    rewards = np.zeros((*shape, len(self.weights)), np.float32)
    right = np.zeros(shape, np.float32)
    valid = np.ones(shape, bool)
    lost = {}
    for p, g in np.ndindex(shape):
      values, right[p, g], reason = outcomes[p][g]
      components = _flat(values)
      if not reason and components.keys() != self.weights.keys():
        reason = f'components {", ".join(components)}: expected {", ".join(self.weights)}'
      if reason:
        lost[p, g] = reason
        valid[p, g] = self._otherwise is not None
        rewards[p, g] = self._otherwise or 0.0
      else:
        rewards[p, g] = [components[name] for name in self.weights]
    return Scored(
      names=tuple(self.weights),
      weights=np.array(list(self.weights.values()), np.float32),
      rewards=rewards,
      valid=valid,
      right=right if self.knows_right else None,
      lost=lost,
    )

  def _evaluate(self, queries, responses) -> list[list[tuple[Values, float, str]]]:
    """For each response its values by reward, whether it is right, and the reason if it was lost."""
    has_group_reward = any(reward.group for reward in self._rewards.values())
    jobs = []
    for query, group in zip(queries, responses, strict=True):
      calls = [('each', response) for response in group]
      if has_group_reward:
        calls.append(('group', list(group)))
      jobs.append(((query,), calls))
    evaluated = []
    for outcomes, group in zip(self._guard(jobs), responses):
      shared = outcomes[len(group)] if has_group_reward else None
      own = outcomes[: len(group)]
      evaluated.append([_merged(outcome, shared, g) for g, outcome in enumerate(own)])
    return evaluated

  @property
  def knows_right(self) -> bool:
    """Whether a reward judges correctness."""
    return self._right is not None

  def right(self, queries: Sequence[Query], responses: Sequence[Sequence[Any]]) -> np.ndarray:
    """Bool [P, G]: whether each response is right; one whose check fails or is late is not.

    Raises ValueError if no reward judges correctness.
    """
    if not self.knows_right:
      raise ValueError('no reward says what a right response is')
    jobs = []
    for query, group in zip(queries, responses, strict=True):
      calls = [('right', response) for response in group]
      jobs.append(((query,), calls))
    verdicts = [[outcome.value == 1 for outcome in outcomes] for outcomes in self._guard(jobs)]
    return np.array(verdicts, bool)

  def close(self) -> None:
    """Ends the processes."""
    self._guard.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _accuracy(rewards: Mapping[str, Reward]) -> Callable | None:
  """The check of correctness, from the only reward that has one. Raises ValueError if several have."""
  known = [reward.right for reward in rewards.values() if reward.right is not None]
  if len(known) > 1:
    raise ValueError(f'rewards={", ".join(rewards)}: {len(known)} of them say what is right; expected at most one')
  if known:
    return known[0]
  return None


def _merged(outcome, shared, g: int) -> tuple[Values, float, str]:
  """(values, verdict, reason) of response g, from its own call and that of its group."""
  if outcome.reason:
    return {}, 0.0, outcome.reason
  values, right = outcome.value
  if shared is None:
    return values, right, ''
  if shared.reason:
    return {}, 0.0, shared.reason
  return values | shared.value[g], right, ''


def _flat(values: Values) -> dict[str, float]:
  """The numbers by `_component`."""
  numbers = {}
  for name, components in values.items():
    for key, number in components.items():
      numbers[_component(name, key)] = number
  return numbers


def _component(name: str, key: str) -> str:
  """`reward.component`, without the parts that are empty."""
  parts = [part for part in (name, key) if part]
  return '.'.join(parts) or ALONE


def _weights(name: str, reward: Reward, own: Mapping[str, float]) -> dict[str, float]:
  """Weights by component of a reward that returned `own`."""
  if not isinstance(reward.weights, Mapping):
    return {_component(name, key): reward.weights for key in own}
  if reward.weights.keys() != own.keys():
    expected = ', '.join(reward.weights)
    got = ', '.join(own) or 'none'
    raise ValueError(f'reward {name!r} returns components {got}: expected those that have a weight, {expected}')
  return {_component(name, key): reward.weights[key] for key in own}
