"""What is asked of the engine, and what it answers."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from core.engine.sampling import Sampling


class QueueFull(RuntimeError):
  """The engine's queue has as many sequences as `max_queued` allows; submit again later."""


class Constraint(Protocol):
  """Which tokens one sample may choose next, given those that it has: a grammar, for instance."""

  def allowed(self) -> np.ndarray:
    """The tokens that may follow, bool [vocab]; at least one."""

  def push(self, tokens: Sequence[int]) -> None:
    """The sample has these further tokens."""


@dataclasses.dataclass(frozen=True)
class Request:
  """A prompt to be continued `n` times.

  prompt: token ids. Sample i draws with `seed + i`, at each position with a key of its own (`core.engine.sampling`).
  stops: end tokens, any number. stop_strings: texts that end a sample with the token that completes one; a string may
  begin in the prompt, and a plain str is one string. repetition_penalty: as in transformers, over prompt and response.
  allowed: bool [vocab], tokens that may be chosen; copied. constraint: makes the `Constraint` of one sample, which
  replaces `allowed` and is asked before each token: the sample gets one a segment. top_logprobs: how many of the
  likeliest tokens are reported with each token. media: images and other features, in
  the order of the prompt's placeholders, as the engine's features source takes them; with one, the last token of a
  prompt must be text.
  priority: higher ones enter first, and preempt running sequences of lower priority.

  Raises ValueError for values out of range.
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
  repetition_penalty: float = 1.0
  seed: int = 0
  priority: int = 0
  allowed: np.ndarray | None = None
  constraint: Callable[[], Constraint] | None = None
  top_logprobs: int = 0
  media: Sequence[Any] = ()

  def __post_init__(self):
    Sampling.of(1, **self.sampling(0))
    if self.top_logprobs < 0:
      raise ValueError(f'request: top_logprobs={self.top_logprobs}; expected at least 0')
    if len(self.prompt) < 1 or self.max_new < 1 or self.n < 1:
      raise ValueError(
        f'request: need a prompt, max_new >= 1 and n >= 1; got {len(self.prompt)} tokens, '
        f'max_new={self.max_new}, n={self.n}'
      )
    set_field = lambda name, value: object.__setattr__(self, name, value)
    set_field('prompt', tuple(_token_ids('prompt', self.prompt)))
    set_field('stops', tuple(_token_ids('stops', self.stops)))
    strings = (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)
    if not all(isinstance(s, str) and s for s in strings):
      raise ValueError(f'request: stop_strings={strings}: expected texts; an empty stop string stops everything')
    set_field('stop_strings', strings)
    if self.allowed is not None:
      set_field('allowed', _mask(self.allowed))

  def sampling(self, sample: int) -> dict[str, float]:
    """The fields of `Sampling` for one sample."""
    return {
      'temperature': self.temperature,
      'top_k': self.top_k,
      'top_p': self.top_p,
      'min_p': self.min_p,
      'seed': (self.seed + sample) % 2**31,
      'repetition_penalty': self.repetition_penalty,
    }

  def check_vocabulary(self, vocab: int) -> None:
    """Raises ValueError if a prompt token is not one of `vocab` tokens, or `allowed` is not a choice among them."""
    if min(self.prompt) < 0 or max(self.prompt) >= vocab:
      raise ValueError(f'a prompt token is outside the vocabulary of {vocab}')
    if self.allowed is not None and (self.allowed.shape != (vocab,) or not self.allowed.any()):
      raise ValueError(f'allowed: shape {self.allowed.shape}; expected a non-empty choice among ({vocab},)')


def _token_ids(name: str, tokens: Sequence[int]) -> Sequence[int]:
  """Tokens as ints. Raises ValueError for one that is not an integer, and for bool."""
  if isinstance(tokens, np.ndarray):
    tokens = tokens.tolist()
  for token in tokens:
    if type(token) is not int and (isinstance(token, (bool, np.bool_)) or not hasattr(token, '__index__')):
      raise ValueError(f'request: {name} has {token!r}; expected integer token ids')
  return list(map(operator.index, tokens))


def _mask(allowed: Any) -> np.ndarray:
  """A copy of its own, which the caller cannot change."""
  mask = np.array(allowed, bool)
  mask.flags.writeable = False
  return mask


@dataclasses.dataclass(frozen=True)
class Completion:
  """A sample: `tokens` int32 and their log-probabilities as sampled, an end token included.

  id: as `submit` returned it. logp: float32, of the model's own distribution at the request's temperature (1 if
  greedy), before any mask, penalty or filter. reason: 'stop', 'stop_string', 'length', 'cancelled', 'error' (the logits
  after these tokens were NaN or infinite), or 'unfinished' in a look between steps. version: int32, weight updates
  before each token.
  """

  id: int
  tokens: np.ndarray
  logp: np.ndarray
  version: np.ndarray
  reason: str
