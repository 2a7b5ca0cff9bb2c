"""What a response is worth: the named rewards, and a user's own functions in the same form.

To add a reward, write its function and give it one entry in `REWARDS`: the choices of configs, `--help` and the table
in docs/rl.md derive from that entry. From Python a function needs no entry: `rewards=my_function`.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Literal

from rl.query import Query
from rl.rewards.symbolic import boxed_symbolic
from rl.rewards.verify import answer_and_format, boxed, exact_match, last_number


@dataclasses.dataclass(frozen=True)
class Check:
  """A check of (response, right answer) as a function of (query, response)."""

  check: Callable[[str, str], Any]

  def __call__(self, query: Query, response: str) -> Any:
    """The verdict on a response."""
    return self.check(response, query.answer)


@dataclasses.dataclass(frozen=True)
class Reward:
  """A reward function, and what callers need to know of it.

  function: of (query, response), a number or named components {name: number}; with `group`, of (query, responses), a
  sequence of those, one per response. weights: of the reward in the sum, a number or one per component. right: 1 for a
  right response, of (query, response): what accuracy counts; with None, reports show the mean reward. modules: what it
  imports beyond the requirements. direct: it is called in the run's own process, without a time limit, because it holds
  a connection or a model. meaning: one line, for `--help` and the docs.
  """

  function: Callable
  weights: float | Mapping[str, float] = 1.0
  group: bool = False
  right: Callable[[Query, Any], float] | None = None
  modules: tuple[str, ...] = ()
  direct: bool = False
  meaning: str = ''

  def weigh(self, weights: float | Mapping[str, float]) -> 'Reward':
    """The same reward with other weights; a number scales the ones it has. Raises ValueError for anything else."""
    if isinstance(weights, Mapping):
      return dataclasses.replace(self, weights=dict(weights))
    if isinstance(weights, bool) or not isinstance(weights, (int, float)):
      raise ValueError(f'weights={weights!r}: expected a number, or numbers by component')
    if isinstance(self.weights, Mapping):
      return dataclasses.replace(self, weights={name: weights * w for name, w in self.weights.items()})
    return dataclasses.replace(self, weights=weights * self.weights)


REWARDS = {
  'exact_match': Reward(
    Check(exact_match),
    right=Check(exact_match),
    meaning='1 when the response is the answer, outer blanks and letter case aside',
  ),
  'last_number': Reward(
    Check(last_number), right=Check(last_number), meaning='1 when the last whole number is the answer'
  ),
  'boxed': Reward(
    Check(boxed), right=Check(boxed), meaning='1 when the last box equals the answer, as a number or as text'
  ),
  'boxed_and_format': Reward(
    Check(answer_and_format),
    weights={'answer': 0.9, 'format': 0.1},
    right=Check(boxed),
    meaning='0.9 for a right box, 0.1 for a think block and then a box (InternVL3.5)',
  ),
  'boxed_symbolic': Reward(
    Check(boxed_symbolic),
    right=Check(boxed_symbolic),
    modules=('math_verify',),
    meaning='as boxed; what is neither a number nor the same text is compared by Math-Verify',
  ),
}

Name = Literal[tuple(REWARDS)]  # for config fields: choices and help follow the registry


def resolve(rewards: Any) -> dict[str, Reward]:
  """The rewards that an argument asks for, by name; '' for a single one that is given without a name.

  rewards: a `Reward`, a name in `REWARDS`, a function, a pair (any of these, weights), or a mapping of names to those:
  `my_function`, `'boxed'`, `{'format': f, 'answer': (g, 2.0)}`.
  Raises ValueError for an unknown name or anything else, ModuleNotFoundError for a missing package.
  """
  if isinstance(rewards, Mapping):
    if not rewards or not all(isinstance(name, str) and name for name in rewards):
      raise ValueError(f'rewards={rewards!r}: expected one or more rewards by name')
    return {name: _one(reward) for name, reward in rewards.items()}
  return {'': _one(rewards)}


def _one(given: Any) -> Reward:
  if isinstance(given, tuple) and len(given) == 2:
    return _one(given[0]).weigh(given[1])
  if isinstance(given, str):
    if given not in REWARDS:
      raise ValueError(f'reward={given!r}: expected one of {", ".join(REWARDS)}, or a function')
    given = REWARDS[given]
  if not isinstance(given, Reward):
    if not callable(given):
      raise ValueError(f'reward={given!r}: expected a function, a name, or a pair of one and its weights')
    return Reward(given)
  for module in given.modules:
    if importlib.util.find_spec(module) is None:
      raise ModuleNotFoundError(f'a reward needs {module}, which is not installed', name=module)
  return given
