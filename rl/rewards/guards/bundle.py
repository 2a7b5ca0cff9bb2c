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
  """The rewards by name, and the check of correctness, if there is one."""

  rewards: Mapping[str, Reward]
  right: Callable | None

  def __call__(self, query: Query, what: Literal['each', 'group', 'right'], subject: Any) -> Any:
    """'each': (`Values`, verdict) of one response. 'right': its verdict alone. 'group': the `Values` of all responses.

    Raises ValueError for a reward that is not a finite number, and anything that the functions raise.
    """
    if what == 'right':
      return float(self.right(query, subject) == 1)
    if what == 'group':
      return self._group(query, subject)
    returned = {}
    for name, reward in self.rewards.items():
      if not reward.group:
        returned[name] = reward.function(query, subject)
    values = {name: _numbers(value) for name, value in returned.items()}
    return values, self._verdict(query, subject, returned)

  def _verdict(self, query: Query, response: Any, returned: Mapping[str, Any]) -> float:
    if self.right is None:
      return 0.0
    for name, value in returned.items():
      if self.rewards[name].function == self.right:  # already called
        return float(value == 1)
    return float(self.right(query, response) == 1)

  def _group(self, query: Query, responses: Sequence[Any]) -> list[Values]:
    columns = {}
    for name, reward in self.rewards.items():
      if reward.group:
        values = [_numbers(value) for value in reward.function(query, responses)]
        if len(values) != len(responses):
          raise ValueError(f'{len(values)} rewards of {len(responses)} responses')
        columns[name] = values
    places = range(len(responses))
    return [{name: column[g] for name, column in columns.items()} for g in places]

  def warm_up(self) -> None:
    """Calls `warm_up` of the functions, or of their modules, if they have one, before any call is timed."""
    functions = [reward.function for reward in self.rewards.values()]
    for function in (*functions, self.right):
      inner = getattr(function, 'check', function)
      module = sys.modules.get(getattr(inner, '__module__', None))
      warm_up = getattr(inner, 'warm_up', None) or getattr(module, 'warm_up', None)
      if warm_up is not None:
        warm_up()


def _numbers(value: Any) -> dict[str, float]:
  if isinstance(value, Mapping):
    return {str(name): _number(component) for name, component in value.items()}
  return {'': _number(value)}


def _number(value: Any) -> float:
  is_number = isinstance(value, (bool, int, float, np.number, np.bool_))
  is_scalar_array = hasattr(value, 'dtype') and value.ndim == 0
  if not (is_number or is_scalar_array) or not math.isfinite(value):
    raise ValueError(f'not a finite number: {value!r:.80}')
  return float(value)
