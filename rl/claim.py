"""What identifies a run from Python: its numbers, its advantage, its rewards and its task, as JSON.

A workdir keeps the claim of its run; `core.training.run.Run` refuses to continue it under another one.
"""

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping
from typing import Any

from rl.advantages import Advantage
from rl.configs import Training
from rl.query import Query
from rl.rewards import REWARDS, Reward, resolve
from rl.rewards.scorer import ALONE
from rl.tasks import TASKS, Task

PROBED = 4  # queries of a task, from each split, that its fingerprint reads


def claim_of(config: Training, task: Task, rewards: Any, *, steps: int, max_new: int) -> dict[str, Any]:
  """What identifies a run; rewards as `rl.rewards.resolve` takes them."""
  return dataclasses.asdict(config) | {
    'steps': steps,
    'max_new': max_new,
    'advantage': _advantage(config.advantage),
    'rewards': {name or ALONE: _reward(reward) for name, reward in resolve(rewards).items()},
    'task': _task(task),
  }


def _advantage(given: str | Advantage | Callable) -> str:
  """The name of an advantage, or the fingerprint of a function."""
  if isinstance(given, str):
    return given
  return fingerprint(given.compute if isinstance(given, Advantage) else given)


def _reward(reward: Reward) -> Any:
  for name, registered in REWARDS.items():
    if reward == registered:
      return name
  weights = dict(reward.weights) if isinstance(reward.weights, Mapping) else reward.weights
  return {'function': fingerprint(reward.function), 'weights': weights}


def _task(task: Task) -> str:
  """The name of a task, or a digest of how many held-out queries it has and of its first queries' texts."""
  for name, registered in TASKS.items():
    if task == registered:
      return name
  probed = min(PROBED, task.heldout)
  queries = [task.query(split, 0, i) for split in ('train', 'heldout') for i in range(probed)]
  return _digest([task.heldout, [_texts(query) for query in queries]])


def _texts(query: Query) -> list:
  turns = [(turn.get('role'), str(turn.get('content'))) for turn in query.messages]
  return [turns, query.answer]


def fingerprint(function: Callable) -> str:
  """The name of a function and a digest of its code: the same in every process, another after an edit."""
  while isinstance(function, functools.partial):
    function = function.func
  if not hasattr(function, '__code__'):
    kind = type(function)
    called = getattr(kind, '__call__', None)  # noqa: B004 - its code, not whether there is one
    return f'{kind.__module__}.{kind.__qualname__} {_digest(_code(getattr(called, "__code__", None)))}'
  parts = [_code(function.__code__), repr(function.__defaults__)]
  return f'{function.__module__}.{function.__qualname__} {_digest(parts)}'


def _code(value: Any) -> Any:
  """A code object or one of its constants as JSON, in an order that does not depend on the process."""
  if isinstance(value, types.CodeType):
    return [value.co_code.hex(), list(value.co_names), [_code(constant) for constant in value.co_consts]]
  if isinstance(value, (tuple, list)):
    return [_code(item) for item in value]
  if isinstance(value, frozenset):
    return sorted(repr(item) for item in value)
  return repr(value)


def _digest(value: Any) -> str:
  text = json.dumps(value, ensure_ascii=False)
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]
