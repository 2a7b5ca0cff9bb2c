"""Reference-counted pages: a page may be overwritten only when nothing refers to it."""

import numpy as np

FEW = 4  # pages that are counted faster one by one than as an array


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
    """The numbers of `count` free pages, int32, one reference each. Raises IndexError if fewer are free."""
    if count > self._free:
      raise IndexError(f'{count} pages wanted; {self._free} are free')
    self._free -= count
    pages = self._stack[self._free : self._free + count][::-1].copy()
    self.references[pages] = 1
    return pages

  def share(self, pages: np.ndarray) -> None:
    """Adds a reference to each page of int32 [n]. Raises ValueError for a free page."""
    self.references[pages] = self._counts(pages) + 1

  def drop(self, pages: np.ndarray) -> None:
    """Takes a reference from each; a page without any is free. Raises ValueError for a free page."""
    if len(pages) < FEW:
      for page in pages.tolist():
        self._drop_one(page)
      return
    left = self._counts(pages) - 1
    self.references[pages] = left
    unused = pages[left == 0]
    self._stack[self._free : self._free + len(unused)] = unused
    self._free += len(unused)

  def share_one(self, page: int) -> None:
    """`share` of one page: several times as fast as an array of one."""
    self.references[page] = self._count(page) + 1

  def _drop_one(self, page: int) -> None:
    left = self._count(page) - 1
    self.references[page] = left
    if not left:
      self._stack[self._free] = page
      self._free += 1

  def _count(self, page: int) -> int:
    count = self.references.item(page)
    if count < 1:
      raise ValueError(f'page {page} is free; expected a page in use')
    return count

  def _counts(self, pages: np.ndarray) -> np.ndarray:
    counts = self.references[pages]
    if len(counts) and counts.min() < 1:
      raise ValueError(f'page {pages[counts < 1][0]} is free; expected a page in use')
    return counts
