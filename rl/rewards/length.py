"""What the length of a response costs."""

import dataclasses

import numpy as np

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Length:
  """Shaping of rewards by length, and responses cut at the length limit."""

  buffer: int = field(0, 'tokens before the limit over which a response loses reward (DAPO overlong shaping); 0: off')
  factor: float = field(1.0, 'reward that a response at the limit loses')
  drop_cut: bool = field(False, 'leave responses cut at the limit out of the loss; their rewards still count')

  def __post_init__(self):
    if self.buffer < 0 or not 0 < self.factor < np.inf:
      raise ValueError(f'buffer={self.buffer}, factor={self.factor}: expected 0 or more, and a positive number')

  def check(self, limit: int) -> None:
    """Raises ValueError when the buffer is longer than responses may be, `limit` tokens."""
    if self.buffer > limit:
      raise ValueError(f'buffer={self.buffer}: expected at most the {limit} tokens of the longest response')


def overlong(lengths: np.ndarray, limit: int, buffer: int, factor: float = 1.0) -> np.ndarray:
  """Soft overlong punishment (DAPO, arXiv 2503.14476 eq. 13), to be added to rewards: 0 down to −factor.

  lengths: of responses in tokens, any shape. 0 up to limit − buffer, then linear, −factor from `limit` on.
  Raises ValueError unless 0 < buffer <= limit.
  """
  if not 0 < buffer <= limit:
    raise ValueError(f'buffer={buffer}: expected 1 to limit={limit}')
  return -factor * np.clip((np.asarray(lengths) - (limit - buffer)) / buffer, 0.0, 1.0)


def without_cut(mask: np.ndarray, ended: np.ndarray) -> np.ndarray:
  """The loss's mask bool [..., T] without the responses that did not end by themselves, `ended` bool [...].

  (DAPO's overlong filtering, arXiv 2503.14476 §3.4.)
  """
  return np.asarray(mask) & np.asarray(ended)[..., None]
