"""Edits between two sequences: substitutions, deletions and insertions at unit costs.

R reference items   H hypothesis items
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_MATCH, _SUBSTITUTE, _DELETE, _INSERT = range(4)


@dataclasses.dataclass(frozen=True)
class Edits:
  """Counts of an alignment at unit costs, and the reference length they are divided by."""

  substitutions: int
  deletions: int
  insertions: int
  length: int

  @property
  def total(self) -> int:
    return self.substitutions + self.deletions + self.insertions


def aligned(reference: Sequence[str], hypothesis: Sequence[str], may_meet: np.ndarray | None = None) -> Edits:
  """The alignment by dynamic programming. may_meet: [R, H] bool, which items may match or be substituted."""
  rows = len(reference)
  columns = len(hypothesis)
  ids: dict[str, int] = {}
  number = lambda word: ids.setdefault(word, len(ids))
  ref = np.array([number(w) for w in reference], np.int32)
  hyp = np.array([number(w) for w in hypothesis], np.int32)
  steps = np.arange(columns + 1)
  cost = steps.copy()
  moves = np.full((rows + 1, columns + 1), _DELETE, np.uint8)
  moves[0] = _INSERT
  for i in range(1, rows + 1):
    same = hyp == ref[i - 1]
    diagonal = cost[:-1] + ~same
    if may_meet is not None:
      same = same & may_meet[i - 1]
      diagonal = np.where(may_meet[i - 1], diagonal, rows + columns + 1)
    best = cost + 1
    best[1:] = np.minimum(best[1:], diagonal)
    # min over j' <= j of best[j'] + (j - j'): insertions along the row, without a loop.
    new = np.minimum.accumulate(best - steps) + steps
    move = moves[i, 1:]
    move[:] = np.where(new[1:] == cost[1:] + 1, _DELETE, _INSERT)
    hit = new[1:] == diagonal
    move[hit] = np.where(same[hit], _MATCH, _SUBSTITUTE)
    cost = new
  return _walk_back(moves, rows, columns)


def _walk_back(moves: np.ndarray, rows: int, columns: int) -> Edits:
  counts = [0, 0, 0, 0]
  i = rows
  j = columns
  while i or j:
    move = moves[i, j]
    counts[move] += 1
    i -= move != _INSERT
    j -= move != _DELETE
  return Edits(counts[_SUBSTITUTE], counts[_DELETE], counts[_INSERT], rows)
