"""What a segment sampled for one sequence: which tokens it keeps, and whether it ends."""

from typing import NamedTuple

from core.engine.device import Segment
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence


class News(NamedTuple):
  """New tokens of a sample and their log-probabilities; reason: why it ends, or None."""

  sample: Sequence
  tokens: list[int]
  logp: list[float]
  reason: str | None


def harvest(s: Scheduler, sample: Sequence, slot: int, out: Segment, version: int) -> News:
  """Gives a sample the tokens of its slot, up to the first end token or stop string."""
  count = int(out.count[slot])
  tokens = out.tokens[slot, :count].tolist()
  reason = 'error' if out.failed[slot] else None
  stop = next((i + 1 for i, token in enumerate(tokens) if token in sample.request.stops), None)
  if stop is not None:
    tokens, reason = tokens[:stop], 'stop'
  found = sample.stop_strings.feed(tokens) if sample.stop_strings else None
  if found is not None:
    tokens, reason = tokens[:found], 'stop_string'
  logp = out.logp[slot, : len(tokens)].tolist()
  s.append(sample, tokens, logp, version, count)
  if reason is None and not sample.remaining:
    reason = 'length'
  return News(sample, tokens, logp, reason)
