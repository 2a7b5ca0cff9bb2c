"""Few rooms for pairs of many lengths: each is a compiled program, and what it holds beyond its pairs is waste."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.launch.fields import field

STEP = 128  # tokens by which rooms differ, a tile of an accelerator's matrices


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The room of a pair in a batch."""

  prompt: int = field(8192, 'tokens of a prompt, images included')
  answer: int = field(8192, 'tokens of an answer, its stop token included')
  tiles: int = field(12, 'tiles of a prompt')

  @property
  def slots(self) -> int:
    """Tokens that a pair in this room costs: its prompt once, and two answers."""
    return self.prompt + 2 * self.answer

  def holds(self, need: Sequence[int]) -> bool:
    """Whether (tokens of the prompt, of the longer answer, tiles) fit."""
    return all(n <= getattr(self, f.name) for n, f in zip(need, dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Group:
  """The pairs, by number, that are computed in one room."""

  room: Sizes
  numbers: np.ndarray  # int64 [K], ascending


def divide(needs: np.ndarray, limit: Sizes, *, most: int, least: int) -> list[Group]:
  """At most `most` groups of at least `least` of the pairs that fit `limit`, divided so as to waste few slots.

  needs: int [pairs, 3], of each what `Sizes.holds` takes. The group and the length whose cut saves most are cut, again
  and again. Fewer than `least` pairs are one group. Raises ValueError when none fits.
  """
  numbers = np.flatnonzero((needs <= dataclasses.astuple(limit)).all(1))
  if not len(numbers):
    raise ValueError(f'none of {len(needs)} pairs fits {limit}')
  cap = np.array([limit.prompt, limit.answer])
  lengths = np.minimum(-(-needs[:, :2] // STEP) * STEP, cap)
  slots = lambda some: len(some) * int(lengths[some].max(0) @ (1, 2))

  def best(some):
    """(slots saved, the two parts) of the best cut of a group; (0, None) if there is none."""
    found = (0, None)
    for axis in range(2):
      for value in np.unique(lengths[some, axis])[:-1]:
        below = lengths[some, axis] <= value
        parts = some[below], some[~below]
        if min(map(len, parts)) >= least:
          found = max(found, (slots(some) - sum(map(slots, parts)), parts), key=lambda x: x[0])
    return found

  groups = [(numbers, *best(numbers))]
  while len(groups) < most:
    at = max(range(len(groups)), key=lambda k: groups[k][1])
    if groups[at][2] is None:
      break
    groups[at : at + 1] = [(part, *best(part)) for part in groups[at][2]]
  return [Group(Sizes(*map(int, lengths[some].max(0)), int(needs[some, 2].max())), some) for some, *_ in groups]
