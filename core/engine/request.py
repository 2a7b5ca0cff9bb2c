"""What is asked of the engine, and what it answers."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.engine.device import STOPS
from core.engine.sample import Sampling


@dataclasses.dataclass(frozen=True)
class Request:
  """A prompt to be continued `n` times.

  Sample i draws with `seed + i`, at each position with a key of its own, as `core.engine.sample` does. images: tiles
  [n, S, S, 3] of each image, in the order of the prompt's image tokens; the last token of a prompt must be text.
  stop_strings end a sample with the token that completes one. allowed: bool [vocab], tokens that may be chosen.
  Requests of higher priority enter first, in the place of running ones of lower priority if need be.
  """

  prompt: Sequence[int]
  max_new: int
  n: int = 1
  stops: Sequence[int] = ()
  stop_strings: Sequence[str] = ()
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  seed: int = 0
  priority: int = 0
  allowed: np.ndarray | None = None
  images: Sequence[np.ndarray] = ()

  def __post_init__(self):
    Sampling.of(1, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p, seed=self.seed)
    if len(self.prompt) < 1 or self.max_new < 1 or self.n < 1:
      raise ValueError(
        f'request: need a prompt, max_new >= 1 and n >= 1; got {len(self.prompt)} tokens, '
        f'max_new={self.max_new}, n={self.n}'
      )
    if len(self.stops) > STOPS:
      raise ValueError(f'request: {len(self.stops)} stop tokens; expected at most {STOPS}')
    if any(not s for s in self.stop_strings):
      raise ValueError('request: an empty stop string stops everything; expected text')

  def sampling(self, sample: int) -> tuple:
    """(temperature, top_k, top_p, min_p, seed) of one sample."""
    return self.temperature, self.top_k, self.top_p, self.min_p, self.seed + sample


@dataclasses.dataclass(frozen=True)
class Completion:
  """A sample: `tokens` int32 and their log-probabilities as sampled, a stop token included.

  id: as `submit` returned it. reason: 'stop', 'stop_string', 'length', 'cancelled', or 'unfinished' of a look in
  between. version: int32, how many weight updates preceded each token.
  """

  id: int
  tokens: np.ndarray
  logp: np.ndarray
  version: np.ndarray
  reason: str
