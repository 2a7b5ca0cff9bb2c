"""Options of tree sampling."""

import dataclasses
from typing import Literal

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Branching:
  """How responses grow as a tree of segments (TreePO, arXiv 2508.17445 §2.2; defaults of its training script)."""

  segment: int = field(0, 'tokens of a segment; 0: no tree, all responses are sampled from the prompt')
  depth: int = field(0, 'segments of a path, at most; 0: as many as a response takes')
  branch: int = field(2, 'continuations of each path after a segment')
  first_low: int = field(2, 'least number of paths that begin at the prompt, drawn for each query')
  first_high: int = field(8, 'greatest number of them; equal to the least: fixed')
  share: Literal['even', 'low', 'high'] = field(
    'even', 'which paths branch more: none, the less probable or the more probable ones'
  )
  score: Literal['sum', 'mean', 'segment'] = field(
    'segment', 'log-probability that `share` compares: of the path, or mean'
  )
  temperature: float = field(2.0, 'of `share`: high is nearly even')
  box: Literal['with_end', 'alone', 'none'] = field(
    'with_end', 'a boxed answer finishes a path: with the end token, alone'
  )
  repetition: bool = field(True, 'stop a path whose segment repeats itself')
  fallback: Literal['ended', 'any', 'best', 'long'] = field(
    'ended',
    'which leaves are opened again when all paths end early: by themselves, any, best reason first, longer first',
  )
  reopen: Literal['random', 'low', 'high', 'start'] = field(
    'random', 'where: after a random segment, before an improbable or a probable one, at the prompt'
  )

  def __post_init__(self):
    if self.segment < 0 or self.depth < 0 or self.branch < 1:
      raise ValueError(f'segment={self.segment}, depth={self.depth}, branch={self.branch}: expected 0, 0, 1 or more')
    if not 1 <= self.first_low <= self.first_high:
      raise ValueError(
        f'first_low={self.first_low}, first_high={self.first_high}: expected 1 <= first_low <= first_high'
      )
    if not 0 < self.temperature < float('inf'):
      raise ValueError(f'temperature={self.temperature}: expected a positive number')

  def levels(self, max_new: int) -> int:
    """Segments of the longest path, for responses of at most `max_new` tokens."""
    fitting = -(-max_new // self.segment)
    if self.depth:
      return min(self.depth, fitting)
    return fitting
