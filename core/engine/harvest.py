"""What a segment sampled for each sequence: which tokens it keeps, and whether it ends."""

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np

from core.engine.device import STOPS, Segment
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence

Top = list[list[tuple[int, float]]]  # of each new token the likeliest ones in its place with their log-probabilities
OnTokens = Callable[[int, list[int], list[float], Top], None]  # id, new tokens, their log-probabilities, likeliest ones


class News(NamedTuple):
  """The samples that a segment continued, and for each its slot and how many tokens it keeps, int [n].

  ended: why a sample ends, by its place among `samples`.
  """

  samples: list[Sequence]
  slots: np.ndarray
  kept: np.ndarray
  ended: dict[int, str]

  def report(self, out: Segment, on_tokens: OnTokens) -> None:
    """Tells `on_tokens` what each sample got."""
    for sample, slot, kept in zip(self.samples, self.slots.tolist(), self.kept.tolist()):
      top = _top(out, slot, kept, sample.request.top_logprobs)
      on_tokens(sample.id, out.tokens[slot, :kept].tolist(), out.logp[slot, :kept].tolist(), top)


def harvest(s: Scheduler, decoded: Many[tuple[Sequence, int]], out: Segment, stops: np.ndarray, version: int) -> News:
  """Gives each sample the tokens of the slot that it decoded in, up to the first end token or stop string.

  A sample that has left its slot since gets nothing. stops: [R, STOPS], as the device had them. version: of the
  weights.
  """
  present = [(sample, slot) for sample, slot in decoded if sample.slot == slot]
  samples = [sample for sample, _ in present]
  slots = np.array([slot for _, slot in present], np.int64)
  tokens, count = out.tokens[slots], out.count[slots]
  kept = np.array(count, np.int64)
  last = tokens[np.arange(len(slots)), np.maximum(count - 1, 0)]
  stopped = (count > 0) & (last[:, None] == stops[slots]).any(1)
  ended = dict.fromkeys(np.flatnonzero(stopped).tolist(), 'stop')
  for i, sample in enumerate(samples):
    if sample.stop_strings or len(sample.request.stops) > STOPS:
      kept[i], reason = _end(sample, tokens[i, : count[i]].tolist())
      if reason:
        ended[i] = reason
  s.rows.append(slots, tokens, out.logp[slots], kept, count, version)
  _tell_constraints(samples, tokens, kept)
  full = s.rows.new[slots] == s.rows.wanted[slots]
  for i in np.flatnonzero(out.failed[slots]).tolist():
    ended.setdefault(i, 'error')
  for i in np.flatnonzero(full).tolist():
    ended.setdefault(i, 'length')
  return News(samples, slots, kept, ended)


def _top(out: Segment, slot: int, kept: int, count: int) -> Top:
  """The `count` likeliest tokens at each kept place of a slot; an empty list if none were asked for."""
  if not count:
    return []
  tokens, logp = (values[slot, :kept, :count].tolist() for values in out.top)
  return [list(zip(*place)) for place in zip(tokens, logp)]


def _tell_constraints(samples: list[Sequence], tokens: np.ndarray, kept: np.ndarray) -> None:
  for i, sample in enumerate(samples):
    if sample.constraint:
      sample.constraint.push(tokens[i, : kept[i]].tolist())


def _end(sample: Sequence, tokens: list[int]) -> tuple[int, str | None]:
  """(how many of the new tokens the sample keeps, why it ends if an end token or a stop string ends it)."""
  stops, reason = sample.request.stops, None
  stop = next((i for i, token in enumerate(tokens) if token in stops), None)
  if stop is not None:
    tokens, reason = tokens[: stop + 1], 'stop'
  end = sample.stop_strings.feed(tokens) if sample.stop_strings else None
  if end is not None:
    tokens, reason = tokens[:end], 'stop_string'
  return len(tokens), reason
