"""Several sources with random access as one."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Concatenated:
  """Several sources of records by number, one after another.

  ends: int [sources], the number after the last record of each.
  """

  def __init__(self, sources: Sequence[Any]):
    self.sources = sources
    self.ends = np.cumsum([len(source) for source in sources])

  def __len__(self) -> int:
    return int(self.ends[-1])

  def source_of(self, numbers: np.ndarray) -> np.ndarray:
    """int [K]: which source each of the records [K] comes from."""
    return np.searchsorted(self.ends, numbers, side='right')

  def find(self, index: int) -> tuple[Any, int]:
    """(the source of a record, its number there)."""
    at = int(self.source_of(index))
    source = self.sources[at]
    first = int(self.ends[at]) - len(source)
    return source, index - first

  def __getitem__(self, index: int) -> Any:
    source, i = self.find(index)
    return source[i]
