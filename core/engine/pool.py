"""Reference-counted pages: who may overwrite what."""


class Pool:
  """Pages 0..n-1; a page is free when nothing refers to it."""

  def __init__(self, pages: int):
    self.references = [0] * pages
    self._free = list(range(pages))[::-1]

  @property
  def free(self) -> int:
    """Number of free pages."""
    return len(self._free)

  def take(self) -> int:
    """A free page, with one reference. Raises IndexError when there is none."""
    page = self._free.pop()
    self.references[page] = 1
    return page

  def share(self, page: int) -> None:
    """One more reference. Raises ValueError for a free page."""
    if self.references[page] < 1:
      raise ValueError(f'page {page} is free; only a page in use can be shared')
    self.references[page] += 1

  def drop(self, page: int) -> None:
    """One reference less; the last one frees the page. Raises ValueError for a free page."""
    if self.references[page] < 1:
      raise ValueError(f'page {page} is free already')
    self.references[page] -= 1
    if not self.references[page]:
      self._free.append(page)
