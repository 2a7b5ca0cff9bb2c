"""What a sequence contains, by name, with the keys of its pages computed once.

A token is named by its id, or by a negative number where a feature enters (`core.engine.features`). A page is found by
the bytes of its names under its parent in the prefix cache, so the bytes of each full page are made once, and samples
of one prompt share them.
"""

from collections.abc import Sequence

import numpy as np


class Prompt:
  """The names of a prompt, int64 [n], shared by all samples of a request. The array must not change."""

  def __init__(self, names: np.ndarray, page_size: int, pages: Sequence[bytes] = ()):
    self.names, self.page_size = names, page_size
    self.pages = list(pages)  # keys of the first full pages
    self.matched = None  # where the prefix cache last found it; owned by the cache

  def __len__(self) -> int:
    return len(self.names)

  def page(self, i: int) -> bytes:
    """The key of full page i."""
    while len(self.pages) <= i:
      start = len(self.pages) * self.page_size
      self.pages.append(self.names[start : start + self.page_size].tobytes())
    return self.pages[i]


class Content:
  """A prompt and the tokens after it."""

  def __init__(self, prompt: Prompt):
    self.prompt = prompt
    self.new: list[int] = []
    self.length = len(prompt)
    self.matched = None  # as of Prompt, for pages beyond it
    self._pages: list[bytes] = []  # keys of full pages that contain new tokens

  def __len__(self) -> int:
    return self.length

  def append(self, tokens: Sequence[int]) -> None:
    """Adds new tokens."""
    self.new += tokens
    self.length += len(tokens)

  def names(self, start: int, stop: int) -> np.ndarray:
    """The names of tokens start..stop-1, int64."""
    known = len(self.prompt)
    if stop <= known:
      return self.prompt.names[start:stop]
    new = np.array(self.new[max(start - known, 0) : stop - known], np.int64)
    return np.concatenate([self.prompt.names[start:known], new]) if start < known else new

  def last(self) -> int:
    """The name of the last token."""
    return self.new[-1] if self.new else int(self.prompt.names[-1])

  def page(self, i: int) -> bytes:
    """The key of full page i."""
    size = self.prompt.page_size
    own = i - len(self.prompt) // size
    if own < 0:
      return self.prompt.page(i)
    while len(self._pages) <= own:
      start = (len(self.prompt) // size + len(self._pages)) * size
      self._pages.append(self.names(start, start + size).tobytes())
    return self._pages[own]

  def part(self, i: int, stop: int) -> bytes:
    """The key of page i up to token `stop`."""
    size = self.prompt.page_size
    return self.page(i) if stop >= (i + 1) * size else self.names(i * size, stop).tobytes()

  def fork(self, at: int) -> Prompt:
    """The first `at` tokens as a prompt."""
    full = at // self.prompt.page_size
    return Prompt(self.names(0, at), self.prompt.page_size, [self.page(i) for i in range(full)])
