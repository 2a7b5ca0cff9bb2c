"""Exact nearest neighbours of vectors that come and go: one matrix, one product a question."""

from collections.abc import Callable

import numpy as np


class Index:
  """Unit vectors by id. A question over 100,000 of 768 numbers is one product of 77 million."""

  def __init__(self, width: int):
    self._vectors = np.zeros((64, width), np.float32)
    self._ids = np.zeros(64, np.int64)
    self._row: dict[int, int] = {}
    self._used = 0

  def __len__(self) -> int:
    return len(self._row)

  def put(self, key: int, vector: np.ndarray) -> None:
    """Adds or replaces one vector; it is normalised here, and a zero vector is like nothing."""
    row = self._row.get(key)
    if row is None:
      if self._used == len(self._ids):
        self._grow()
      row, self._used = self._used, self._used + 1
      self._row[key], self._ids[row] = row, key
    self._vectors[row] = unit(vector)

  def drop(self, key: int) -> None:
    """Removes one vector; the ids keep their order."""
    self._ids[self._row.pop(key)] = -1

  def ranked(self, query: np.ndarray, allowed: Callable[[int], bool], most: int) -> list[tuple[int, float]]:
    """(id, cosine) of the `most` nearest that are allowed, best first; equals in order of id."""
    scores = self._vectors[: self._used] @ unit(query)
    ids = self._ids[: self._used]
    found = []
    for row in np.lexsort((ids, -scores)):
      if len(found) == most:
        break
      if ids[row] >= 0 and allowed(int(ids[row])):
        found.append((int(ids[row]), float(scores[row])))
    return found

  def _grow(self) -> None:
    kept = np.flatnonzero(self._ids[: self._used] >= 0)  # rows that were dropped are given back
    size = max(64, 2 * len(kept))
    vectors, ids = np.zeros((size, self._vectors.shape[1]), np.float32), np.zeros(size, np.int64)
    vectors[: len(kept)], ids[: len(kept)] = self._vectors[kept], self._ids[kept]
    self._vectors, self._ids, self._used = vectors, ids, len(kept)
    self._row = {int(key): row for row, key in enumerate(ids[: len(kept)])}


def unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors [..., width] at length 1; zero stays zero."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return np.divide(vectors, length, out=np.zeros_like(vectors, np.float32), where=length > 0)
