"""What a study of a recipe compares, and how it measures the models that its trials end with."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from rl.configs import Config
from rl.rollout import Ask, Sampler

Columns = Mapping[str, Sequence[float]]  # measures by name, a value for each held-out question


@dataclasses.dataclass(frozen=True)
class Recipe:
  """arms: configs by name, the recipe's own first and its control second; they share model, task and warm-up.

  rates: learning rates that each arm tries. choice: the measure that chooses between them. measure: of a model, on
  held-out questions. measures: those of the table, with their meanings. curves: metrics of rollouts to draw, with their
  meanings. tokens: whether curves are drawn over sampled tokens; else over rollouts.
  """

  arms: Mapping[str, Config]
  rates: tuple[float, ...]
  choice: str
  measure: Callable[[Sampler, Ask, Config], Columns]
  measures: Mapping[str, str]
  curves: Mapping[str, str]
  tokens: bool = False

  @property
  def first(self) -> Config:
    """The config that says how the model is made that all trials start from."""
    return next(iter(self.arms.values()))
