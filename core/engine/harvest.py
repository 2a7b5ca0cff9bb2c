"""What a segment sampled for each sequence: which tokens it keeps, and whether it ends."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from core.engine.device import Segment
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence


class News(NamedTuple):
  """New tokens of a sample, int64 [n], and their log-probabilities, float32 [n]; reason: why it ends, or None."""

  sample: Sequence
  tokens: np.ndarray
  logp: np.ndarray
  reason: str | None


def harvest(s: Scheduler, decoded: Iterable[tuple[Sequence, int]], out: Segment, version: int) -> list[News]:
  """Gives each sample the tokens of the slot that it decoded in, up to the first end token or stop string.

  A sample that has left its slot since gets nothing. version: of the weights.
  """
  tokens = out.tokens.astype(np.int64)
  counts, failed = out.count.tolist(), out.failed.tolist()  # at once: reading NumPy by the element is slow
  news = []
  for sample, slot in decoded:
    if sample.slot != slot:
      continue
    count = counts[slot]
    kept, reason = _end(sample, tokens[slot, :count])
    logp = out.logp[slot, :kept]
    s.append(sample, tokens[slot, :kept], logp, version, filled=count)
    if reason is None and failed[slot]:
      reason = 'error'
    if reason is None and not sample.remaining:
      reason = 'length'
    news.append(News(sample, tokens[slot, :kept], logp, reason))
  return news


def _end(sample: Sequence, new: np.ndarray) -> tuple[int, str | None]:
  """(how many of the new tokens the sample keeps, why it ends if an end token or a stop string ends it)."""
  stops = sample.request.stops
  if not stops and not sample.stop_strings:
    return len(new), None
  tokens, reason = new.tolist(), None
  stop = next((i for i, token in enumerate(tokens) if token in stops), None)
  if stop is not None:
    tokens, reason = tokens[: stop + 1], 'stop'
  end = sample.stop_strings.feed(tokens) if sample.stop_strings else None
  if end is not None:
    tokens, reason = tokens[:end], 'stop_string'
  return len(tokens), reason
