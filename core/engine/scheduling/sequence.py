"""One sample being generated."""

import dataclasses

import numpy as np

from core.engine.request import Request
from core.engine.scheduling.content import Content
from core.engine.stops import StopStrings


@dataclasses.dataclass(eq=False)
class Sequence:
  """Sample `sample` of a request, waiting (slot None) or in a slot."""

  id: int
  request: Request
  sample: int
  content: Content
  stop_strings: StopStrings | None = None
  logp: list[float] = dataclasses.field(default_factory=list)  # of the new tokens
  version: list[int] = dataclasses.field(default_factory=list)  # of the weights, for each new token
  pages: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
  filled: int = 0  # leading tokens whose keys and values are in the pages
  slot: int | None = None
  unknown: tuple | None = None  # (node, key) of the first page that it is filling in and the prefix cache lacks
  forks: int = 0

  @property
  def tokens(self) -> list[int]:
    """The new tokens."""
    return self.content.new

  @property
  def order(self) -> tuple[int, int]:
    """Less comes first."""
    return -self.request.priority, self.id

  @property
  def target(self) -> int:
    """Tokens that must be in pages before it decodes: all but the last, which is the next step's input."""
    return self.content.length - 1

  @property
  def ready(self) -> bool:
    """Whether it can decode."""
    return self.filled == self.content.length - 1

  @property
  def remaining(self) -> int:
    """New tokens still wanted."""
    return self.request.max_new - len(self.content.new)
