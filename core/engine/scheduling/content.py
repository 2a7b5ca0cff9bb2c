"""The content of a sequence as names, and the keys by which the prefix cache finds its pages.

A token is named by its id, or by a negative number where a feature enters (`core.engine.features`). The key of a page
is the bytes of its names. Samples of one prompt share the names and the keys of that prompt.
"""

from array import array
from collections.abc import Sequence

import numpy as np

NAME = 8  # bytes of a name, an int64


class Prompt:
  """The names of a prompt, int64 [n], shared by all samples of a request. The array must not change."""

  def __init__(self, names: np.ndarray, page_size: int):
    self.names, self.page_size, self.length = names, page_size, len(names)
    self.matched = None  # where the prefix cache last found it; owned by the cache
    self._pages: list[bytes] = []  # keys of its full pages, made when the first one is asked for

  def __len__(self) -> int:
    return self.length

  def page(self, i: int) -> bytes:
    """The key of full page i."""
    if not self._pages:
      self._pages = self._split()
    return self._pages[i]

  def _split(self) -> list[bytes]:
    data, width = self.names.tobytes(), NAME * self.page_size
    end = len(data) - len(data) % width
    return [data[start : start + width] for start in range(0, end, width)]


class Content:
  """A prompt and the tokens after it."""

  def __init__(self, prompt: Prompt):
    self.prompt = prompt
    self.new = array('q')  # its bytes are keys; converts to NumPy without a loop
    self.length = prompt.length
    self.matched = None  # as of Prompt, for pages beyond it

  def __len__(self) -> int:
    return self.length

  def append(self, tokens: Sequence[int]) -> None:
    """Adds new tokens; an int64 array is copied without a loop."""
    self.new.frombytes(np.asarray(tokens, np.int64).tobytes())
    self.length += len(tokens)

  def names(self, start: int, stop: int) -> np.ndarray:
    """The names of tokens start..stop-1, int64."""
    known = self.prompt.length
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
    start = i * size
    after_prompt = start - self.prompt.length
    if after_prompt >= 0:
      return self.new[after_prompt : after_prompt + size].tobytes()
    return self.prompt.page(i) if after_prompt + size <= 0 else self._key(start, start + size)

  def part(self, i: int, stop: int) -> bytes:
    """The key of page i up to token `stop`."""
    start, end = i * self.prompt.page_size, (i + 1) * self.prompt.page_size
    return self.page(i) if stop >= end else self._key(start, stop)

  def _key(self, start: int, stop: int) -> bytes:
    """The bytes of the names of tokens start..stop-1."""
    known = self.prompt.length
    if stop <= known:
      return self.prompt.names[start:stop].tobytes()
    new = self.new[max(start - known, 0) : stop - known].tobytes()
    return self.prompt.names[start:known].tobytes() + new if start < known else new

  def fork(self, at: int) -> Prompt:
    """The first `at` tokens as a prompt."""
    return Prompt(self.names(0, at), self.prompt.page_size)
