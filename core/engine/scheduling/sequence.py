"""One sample being generated."""

import dataclasses
from array import array

import numpy as np

from core.engine.request import Request
from core.engine.scheduling.content import Content
from core.engine.scheduling.prefix_cache import Node
from core.engine.stops import StopStrings

NO_PAGES = np.zeros(0, np.int32)
NO_PAGES.flags.writeable = False


@dataclasses.dataclass(eq=False)
class Sequence:
  """Sample `sample` of a request, waiting (slot None) or in a slot."""

  id: int
  request: Request
  sample: int
  content: Content
  stop_strings: StopStrings | None = None
  logp: array = dataclasses.field(default_factory=lambda: array('f'))  # of the new tokens
  version: array = dataclasses.field(default_factory=lambda: array('i'))  # of the weights, for each new token
  pages: np.ndarray = dataclasses.field(default_factory=lambda: NO_PAGES)
  filled: int = 0  # leading tokens whose keys and values are in the pages
  slot: int | None = None
  node: Node | None = None  # of the last page that it shares with the prefix cache
  shared: int = 0  # leading pages that it shares with the prefix cache
  unknown: tuple | None = None  # (node, key) of the first page that it is filling in and the prefix cache lacks
  forks: int = 0

  def __post_init__(self):
    self.order = -self.request.priority, self.id  # less comes first

  @property
  def tokens(self) -> array:
    """The new tokens, 64-bit integers."""
    return self.content.new

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
