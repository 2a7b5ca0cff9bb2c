"""Reference-counted pages: who may overwrite what."""

import numpy as np


class PagePool:
  """Pages 0..n-1; a page is free when nothing refers to it. Lists of pages are int32 arrays without repeats."""

  def __init__(self, pages: int):
    self.references = np.zeros(pages, np.int32)
    self._stack = np.arange(pages, dtype=np.int32)[::-1].copy()
    self._free = pages

  @property
  def free(self) -> int:
    """Number of free pages."""
    return self._free

  def take(self, count: int) -> np.ndarray:
    """Free pages, one reference each. Raises IndexError if there are not as many."""
    if count > self._free:
      raise IndexError(f'{count} pages wanted; {self._free} are free')
    self._free -= count
    pages = self._stack[self._free : self._free + count][::-1].copy()
    self.references[pages] = 1
    return pages

  def share(self, pages) -> None:
    """One more reference to each. Raises ValueError for a free page."""
    self._check_in_use(pages)
    self.references[pages] += 1

  def drop(self, pages) -> None:
    """One reference less to each; a page without any is free. Raises ValueError for a free page."""
    self._check_in_use(pages)
    self.references[pages] -= 1
    pages = np.atleast_1d(pages)
    unused = pages[self.references[pages] == 0]
    self._stack[self._free : self._free + len(unused)] = unused
    self._free += len(unused)

  def _check_in_use(self, pages) -> None:
    free = self.references[pages] < 1
    if free.any():
      raise ValueError(f'page {np.atleast_1d(pages)[np.atleast_1d(free)][0]} is free; expected a page in use')
