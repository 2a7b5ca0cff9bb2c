"""All reward functions of a run as one function, which a worker process calls and whose values it checks."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rl.query import Query
from rl.rewards.registry import Reward

Values = dict[str, dict[str, float]]  # of one response: by reward, by component ('' for a plain number)


@dataclasses.dataclass(frozen=True)
class Bundle:
  """The rewards by name, and what counts as right, if that is known."""

  rewards: Mapping[str, Reward]
  right: Callable | None

  def __call__(self, query: Query, what: Literal['each', 'group', 'right'], subject: Any) -> Any:
    """Of one response its `Values` and verdict ('each') or the verdict alone ('right'); of all, their `Values`.

    Raises ValueError for what is no finite number, and whatever the functions raise.
    """
    if what == 'right':
      return float(self.right(query, subject) == 1)
    if what == 'group':
      return self._group(query, subject)
    own = {name: r.function(query, subject) for name, r in self.rewards.items() if not r.group}
    values = {name: _numbers(value) for name, value in own.items()}
    return values, self._verdict(query, subject, own)

  def _verdict(self, query: Query, response: Any, own: Mapping[str, Any]) -> float:
    if self.right is None:
      return 0.0
    same = next((name for name in own if self.rewards[name].function == self.right), None)
    return float((self.right(query, response) if same is None else own[same]) == 1)

  def _group(self, query: Query, responses: Sequence[Any]) -> list[Values]:
    columns = {}
    for name, reward in self.rewards.items():
      if reward.group:
        values = [_numbers(value) for value in reward.function(query, responses)]
        if len(values) != len(responses):
          raise ValueError(f'{len(values)} rewards of {len(responses)} responses')
        columns[name] = values
    return [{name: column[g] for name, column in columns.items()} for g in range(len(responses))]

  def warm_up(self) -> None:
    """Loads what the functions' modules say they need, before any call is timed."""
    for function in (*(r.function for r in self.rewards.values()), self.right):
      inner = getattr(function, 'check', function)
      module = sys.modules.get(getattr(inner, '__module__', None))
      warm_up = getattr(module, 'warm_up', None)
      if warm_up is not None:
        warm_up()


def _numbers(value: Any) -> dict[str, float]:
  if isinstance(value, Mapping):
    return {str(name): _number(component) for name, component in value.items()}
  return {'': _number(value)}


def _number(value: Any) -> float:
  scalar = isinstance(value, (bool, int, float, np.number, np.bool_)) or (hasattr(value, 'dtype') and value.ndim == 0)
  if not scalar or not math.isfinite(value):
    raise ValueError(f'not a finite number: {value!r:.80}')
  return float(value)
