"""Reference-counted pages: a page may be overwritten only when nothing refers to it."""

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
    """`count` free pages, one reference each. Raises IndexError if fewer are free."""
    if count > self._free:
      raise IndexError(f'{count} pages wanted; {self._free} are free')
    self._free -= count
    pages = self._stack[self._free : self._free + count][::-1].copy()
    self.references[pages] = 1
    return pages

  def share(self, pages: np.ndarray) -> None:
    """Adds a reference to each. Raises ValueError for a free page."""
    self._check_in_use(pages)
    self.references[pages] += 1

  def drop(self, pages: np.ndarray) -> None:
    """Takes a reference from each; a page without any is free. Raises ValueError for a free page."""
    self._check_in_use(pages)
    self.references[pages] -= 1
    unused = pages[self.references[pages] == 0]
    self._stack[self._free : self._free + len(unused)] = unused
    self._free += len(unused)

  def share_one(self, page: int) -> None:
    """`share` of one page: several times as fast as an array of one."""
    self.references[page] = self._references_of(page) + 1

  def drop_one(self, page: int) -> int:
    """`drop` of one page; returns the references left."""
    left = self._references_of(page) - 1
    self.references[page] = left
    if not left:
      self._stack[self._free] = page
      self._free += 1
    return left

  def _references_of(self, page: int) -> int:
    count = self.references.item(page)
    if count < 1:
      raise ValueError(f'page {page} is free; expected a page in use')
    return count

  def _check_in_use(self, pages: np.ndarray) -> None:
    counts = self.references[pages]
    if len(counts) and counts.min() < 1:
      raise ValueError(f'page {pages[counts < 1][0]} is free; expected a page in use')
