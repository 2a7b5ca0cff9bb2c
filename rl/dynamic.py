"""Which groups of samples teach something, and drawing queries until there are enough of them.

P prompts   G samples of each
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from rl.advantages import flat


def mixed(accuracy: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
  """bool [P]: groups whose accuracies [P, G] are not all equal (dynamic sampling, DAPO, arXiv 2503.14476 eq. 11).

  Others have advantage 0 everywhere. Give it the accuracy, not a reward shaped by length. Samples outside `valid`
  bool [P, G] have no say.
  """
  return ~np.asarray(flat(accuracy, valid))


def band(correct: np.ndarray, samples: int, low: float, high: float) -> np.ndarray:
  """bool, of the shape of `correct`: low <= correct/samples <= high, in exact fractions of the decimals as written.

  InternVL3.5 keeps queries of accuracy 0.2 to 0.8 for its online stage (arXiv 2508.18265).
  Raises ValueError unless 0 <= low <= high <= 1.
  """
  if not 0 <= low <= high <= 1:
    raise ValueError(f'low={low}, high={high}: expected 0 <= low <= high <= 1')
  bounds = Fraction(str(low)), Fraction(str(high))
  inside = [bounds[0] <= Fraction(c, samples) <= bounds[1] for c in range(samples + 1)]
  return np.array(inside)[np.asarray(correct, int)]


class Cursor:
  """The number of the next query of an endless stream; host state of `core.training.run.loop`."""

  def __init__(self, at: int = 0):
    self.at = at

  def take(self, n: int) -> range:
    """The next n numbers."""
    self.at += n
    return range(self.at - n, self.at)

  def get_state(self) -> int:
    """For a checkpoint."""
    return self.at

  def set_state(self, state: int) -> None:
    """From a checkpoint."""
    self.at = state


@dataclasses.dataclass(frozen=True)
class Drawn:
  """What it took to fill a batch."""

  rounds: int
  prompts: int  # sampled from
  kept: int  # of them, worth training on; those beyond what was asked for are dropped

  def metrics(self) -> dict[str, np.ndarray]:
    """As metrics of a step."""
    return {'dynamic_rounds': np.int32(self.rounds), 'dynamic_kept': np.float32(self.kept / self.prompts)}


def fill(
  cursor: Cursor,
  sample: Callable[[range], Any],
  keep: Callable[[Any], np.ndarray],
  *,
  groups: int,
  at_once: int,
  rounds: int = 10,
) -> tuple[Any, Drawn]:
  """Exactly `groups` groups that `keep` chooses, from as many rounds of `at_once` queries as it takes (DAPO §3.2).

  sample(numbers) gives a tree of arrays [at_once, …], a function of the numbers and the weights alone; keep(batch)
  gives bool [at_once]. Returns host arrays [groups, …].
  Raises RuntimeError when `rounds` rounds are not enough.
  """
  parts, have = [], 0
  for done in range(1, rounds + 1):
    batch = jax.tree.map(np.asarray, sample(cursor.take(at_once)))
    chosen = np.flatnonzero(keep(batch))
    parts.append(jax.tree.map(lambda x, chosen=chosen: x[chosen], batch))
    have += len(chosen)
    if have >= groups:
      return jax.tree.map(lambda *x: np.concatenate(x)[:groups], *parts), Drawn(done, done * at_once, have)
  raise RuntimeError(
    f'{have} groups of {groups} kept after {rounds} rounds of {at_once} queries: the task is too easy '
    'or too hard for this policy, or ask for fewer'
  )
