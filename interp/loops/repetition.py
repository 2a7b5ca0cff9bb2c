"""Whether a text repeats itself."""

from collections.abc import Sequence

import numpy as np

COMPRESSION = 2.4  # OpenAI's limit of text bytes over zlib bytes
LONGEST = 10  # tokens of a phrase
TIMES = 3  # that a phrase is said in a row


def loops(compression: float) -> bool:
  """Whether a text of this compression ratio repeats itself, as openai/whisper has it."""
  return compression > COMPRESSION


def coverage(tokens: Sequence[int]) -> float:
  """The share of tokens in the longest stretch of one phrase, of at most 10 tokens, said 3 or more times in a row."""
  row = np.asarray(tokens)
  best = 0
  for size in range(1, min(LONGEST, len(row) // TIMES) + 1):
    repeated = _longest_run(row[size:] == row[:-size])
    if repeated >= (TIMES - 1) * size:
      best = max(best, repeated + size)
  return best / max(len(row), 1)


def _longest_run(true: np.ndarray) -> int:
  """The length of the longest run of True."""
  edges = np.flatnonzero(np.diff(true, prepend=False, append=False))
  return int((edges[1::2] - edges[::2]).max(initial=0))
