"""Which groups of samples teach something, and drawing queries until there are enough of them.

P prompts   G samples of each
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from core import mesh
from rl.advantages import flat
from rl.rewards import Scorer
from rl.rollout.groups import Ask, Group, Plan, Selected


def mixed(accuracy: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
  """bool [P]: groups whose accuracies [P, G] are not all equal (dynamic sampling, DAPO, arXiv 2503.14476 eq. 11).

  Others have advantage 0 everywhere. Give it the accuracy, not a reward shaped by length. Samples outside `valid`
  bool [P, G] do not count.
  """
  return ~np.asarray(flat(accuracy, valid))


def band(correct: np.ndarray, samples: int, low: float, high: float) -> np.ndarray:
  """bool, of the shape of `correct`: low <= correct/samples <= high, in exact fractions of the decimals as written.

  InternVL3.5 keeps queries of accuracy 0.2 to 0.8 for its online stage (arXiv 2508.18265).
  Raises ValueError unless 0 <= low <= high <= 1.
  """
  if not 0 <= low <= high <= 1:
    raise ValueError(f'low={low}, high={high}: expected 0 <= low <= high <= 1')
  lowest = Fraction(str(low))
  highest = Fraction(str(high))
  shares = [Fraction(n, samples) for n in range(samples + 1)]
  inside = np.array([lowest <= share <= highest for share in shares])
  return inside[np.asarray(correct, int)]


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


def mixed_groups(ask: Ask, groups: Sequence[Group]) -> Selected:
  """Keeps the groups that are neither all right nor all wrong (dynamic sampling); a `rl.rollout.groups.Select`."""
  kept = []
  for group in groups:
    everything = range(len(group.trajectories))
    kept.append(everything if mixed(group.right, group.valid) else ())
  return Selected(kept)


def unsolved(sampler: Any, source: Any, scorer: Scorer, tries: Plan, count: int) -> list[int]:
  """Numbers of the first `count` queries that are not right in every try (arXiv 2508.20722 §4.3); all if none is left.

  Of several processes each tries its share.
  """
  numbers = range(jax.process_index(), count, jax.process_count())
  found = []
  for number, query, prompt in source.numbered(numbers):
    if len(prompt.tokens) <= source.limit:
      found.append((number, query, prompt))
  failed = np.zeros(count, bool)
  if found:
    ask = Ask(0, 0, *zip(*found))
    said = [[t.response for t in group] for group in tries(sampler, ask)]
    right = scorer.right(ask.queries, said)
    failed[list(ask.numbers)] = ~right.all(-1)
  failed = mesh.sum_over_processes(failed) > 0
  hard = np.flatnonzero(failed).tolist()
  return hard or list(range(count))
