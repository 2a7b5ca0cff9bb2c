"""Paths of segments, and why one ends."""

import collections
import dataclasses
import enum
import re

import numpy as np

from rl.rollout.tree.settings import Branching

# A text repeats itself if a window of WINDOW characters occurs TIMES times.
WINDOW = 32
TIMES = 8
# Braces up to three levels deep, counted from those of the box.
_INNER = r'[^{}]*(?:\{[^{}]*\}[^{}]*)*'
_BOX = re.compile(r'\\boxed\{' + rf'[^{{}}]*(?:\{{{_INNER}\}}[^{{}}]*)*' + r'\}')


class Reason(enum.IntEnum):
  """Why a path is a leaf, by rank."""

  REPETITION = 2
  LENGTH = 3
  DEPTH = 4
  END = 5  # the policy's end token
  ANSWER = 7  # a boxed answer


@dataclasses.dataclass(frozen=True)
class Path:
  """What follows a prompt: whole segments, the last of which may be shorter.

  tokens: int32 [n]. logp: float32 [n]. labels: (step, slot) of each segment, unique in a query.
  """

  tokens: np.ndarray
  logp: np.ndarray
  labels: tuple[tuple[int, int], ...] = ()

  @classmethod
  def empty(cls) -> 'Path':
    """The bare prompt."""
    return cls(np.zeros(0, np.int32), np.zeros(0, np.float32))

  def extended(self, tokens: np.ndarray, logp: np.ndarray, label: tuple[int, int]) -> 'Path':
    """With one more segment."""
    return Path(
      tokens=np.concatenate([self.tokens, tokens]),
      logp=np.concatenate([self.logp, logp]),
      labels=(*self.labels, label),
    )

  def cut(self, segments: int, length: int) -> 'Path':
    """The first `segments` whole segments of `length` tokens, with their tokens, log-probabilities and labels."""
    kept = segments * length
    return Path(self.tokens[:kept], self.logp[:kept], self.labels[:segments])


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A finished path."""

  path: Path
  reason: Reason


def boxed(text: str) -> bool:
  """Whether a text has a complete box, its braces at most three levels deep."""
  return _BOX.search(text) is not None


def repetitive(text: str) -> bool:
  """Whether some 32 characters occur 8 times, overlapping or not; one pass."""
  starts = range(len(text) - WINDOW + 1)
  seen = collections.Counter(text[i : i + WINDOW] for i in starts)
  return max(seen.values(), default=0) >= TIMES


def stop_reason(text: str, path: Path, *, ended: bool, levels: int, longest: int, options: Branching) -> Reason | None:
  """Why a path ends with its new segment, which says `text`; None if it continues.

  ended: whether the segment has the end token. levels, longest: of the longest path, in segments and in tokens.
  """
  if options.repetition and repetitive(text):
    return Reason.REPETITION
  if options.box != 'none' and boxed(text) and (ended or options.box == 'alone'):
    return Reason.ANSWER
  if ended:
    return Reason.END
  if len(path.tokens) >= longest:
    return Reason.LENGTH
  if len(path.labels) >= levels:
    return Reason.DEPTH
  return None
