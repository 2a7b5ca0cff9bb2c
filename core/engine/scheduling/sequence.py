"""One sample being generated."""

import dataclasses
from typing import NamedTuple

import numpy as np

from core.engine.request import Constraint, Request
from core.engine.scheduling.prefix_cache import Node
from core.engine.stops import StopStrings


class Prompt:
  """A prompt that all samples of a request share.

  names: int64 [n], a token's id, or a negative number where a feature enters (`core.engine.features`). content: the
  same as bytes, by which the prefix cache finds pages. length: n.
  """

  __slots__ = ('content', 'length', 'names')

  def __init__(self, names: np.ndarray):
    self.content = names.astype(np.int64).tobytes()
    self.names = np.frombuffer(self.content, np.int64)
    self.length = len(names)


class Response(NamedTuple):
  """The tokens of a sample so far, [n] each: int32, float32 log-probabilities, int32 versions of the weights."""

  tokens: np.ndarray
  logp: np.ndarray
  version: np.ndarray


NOTHING = Response(
  tokens=np.zeros(0, np.int32),
  logp=np.zeros(0, np.float32),
  version=np.zeros(0, np.int32),
)


@dataclasses.dataclass(eq=False, slots=True)
class Sequence:
  """Sample `sample` of a request, waiting (slot None) or in a slot, whose `Rows` then hold the response."""

  id: int
  request: Request
  sample: int
  prompt: Prompt
  stop_strings: StopStrings | None = None
  constraint: Constraint | None = None
  response: Response = NOTHING  # up to where it last left a slot
  slot: int | None = None
  node: Node | None = None  # of the last page that it shares with the prefix cache; held
  unknown: tuple | None = None  # names the first page that it is prefilling and the prefix cache lacks
  forks: int = 0
  ended: str | None = None  # why it decodes no more, although it has not left
  order: tuple[int, int] = (0, 0)  # less comes first

  def __post_init__(self):
    self.order = -self.request.priority, self.id
