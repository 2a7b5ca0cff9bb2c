"""Which rewards, advantages and loss rules go together; checked when options are parsed, before any work."""

from collections.abc import Callable

from rl.advantages import ADVANTAGES, Advantage, resolve
from rl.losses import Rule
from rl.rewards.length import Length


def check(rule: Rule, advantage: str | Advantage | Callable, *, length: Length, max_new: int) -> None:
  """Raises ValueError, naming the options, for a combination that means nothing.

  Each part checks its own fields. max_new: tokens of the longest response.
  """
  entry = resolve(advantage)
  if rule.kl.in_reward and entry.by_component:
    possible = ', '.join(name for name, other in ADVANTAGES.items() if not other.by_component)
    raise ValueError(
      f"advantage={advantage!r} with rule.kl.where='reward': components are normalised one by one, so a penalty of "
      f"tokens has no place; expected where='loss', or one of {possible}"
    )
  length.check(max_new)
