"""The result of a segment for each sequence: which tokens it keeps, and whether it ends."""

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
      tokens = out.tokens[slot, :kept].tolist()
      logp = out.logp[slot, :kept].tolist()
      top = _top(out, slot, kept, sample.request.top_logprobs)
      on_tokens(sample.id, tokens, logp, top)


def harvest(s: Scheduler, decoded: Many[tuple[Sequence, int]], out: Segment, stops: np.ndarray, version: int) -> News:
  """Gives each sample the tokens of the slot that it decoded in, up to the first end token or stop string.

  A sample that has left its slot since gets nothing. stops: [R, STOPS], as given to the device.
  version: of the weights.
  """
  samples = [sample for sample, slot in decoded if sample.slot == slot]
  slots = np.array([sample.slot for sample in samples], np.int64)
  tokens = out.tokens[slots]
  count = out.count[slots]
  kept = np.array(count, np.int64)
  stopped = _stopped(tokens, count, stops[slots])
  ended = dict.fromkeys(_true(stopped), 'stop')
  for i, sample in enumerate(samples):
    # The device knows no strings, and only the first end tokens.
    if sample.stop_strings or len(sample.request.stops) > STOPS:
      new = tokens[i, : count[i]].tolist()
      kept[i], reason = _end(sample, new)
      if reason:
        ended[i] = reason
  s.rows.append(slots, tokens, out.logp[slots], kept, count, version)
  _tell_constraints(samples, tokens, kept)
  full = s.rows.new[slots] == s.rows.wanted[slots]
  for i in _true(out.failed[slots]):
    ended.setdefault(i, 'error')
  for i in _true(full):
    ended.setdefault(i, 'length')
  return News(samples, slots, kept, ended)


def _true(flags: np.ndarray) -> list[int]:
  """The places of the true ones among bool [n]."""
  return np.flatnonzero(flags).tolist()


def _stopped(tokens: np.ndarray, count: np.ndarray, stops: np.ndarray) -> np.ndarray:
  """bool [n]: whether the last of the first `count` [n] tokens [n, S] is one of `stops` [n, STOPS]."""
  row = np.arange(len(tokens))
  index = np.maximum(count - 1, 0)
  last = tokens[row, index]
  is_stop = (last[:, None] == stops).any(1)
  has_tokens = count > 0
  return has_tokens & is_stop


def _top(out: Segment, slot: int, kept: int, count: int) -> Top:
  """The `count` likeliest tokens at each kept place of a slot; an empty list if none were asked for."""
  if not count:
    return []
  all_tokens, all_logp = out.top
  tokens = all_tokens[slot, :kept, :count].tolist()
  logp = all_logp[slot, :kept, :count].tolist()
  return [list(zip(*place)) for place in zip(tokens, logp)]


def _tell_constraints(samples: list[Sequence], tokens: np.ndarray, kept: np.ndarray) -> None:
  for i, sample in enumerate(samples):
    if sample.constraint:
      new = tokens[i, : kept[i]].tolist()
      sample.constraint.push(new)


def _end(sample: Sequence, tokens: list[int]) -> tuple[int, str | None]:
  """(how many of the new tokens the sample keeps, why it ends if an end token or a stop string ends it)."""
  stops = sample.request.stops
  first_stop = next((i for i, token in enumerate(tokens) if token in stops), None)
  kept = len(tokens)
  reason = None
  if first_stop is not None:
    kept = first_stop + 1
    reason = 'stop'
  if not sample.stop_strings:
    return kept, reason
  end = sample.stop_strings.feed(tokens[:kept])
  if end is None:
    return kept, reason
  return end, 'stop_string'
