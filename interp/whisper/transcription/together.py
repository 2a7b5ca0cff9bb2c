"""Windows of several recordings decoded as the rows of one batch.

Rows do not see one another, so a recording has the text of its own run: attention masks the padding of shorter prompts,
samples draw from a key of the recording's own seed and position, and a row that has ended no longer changes.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from core.audio import Segment
from interp.whisper.decoding.window import Recogniser
from interp.whisper.transcription.plans import Heard, Plan, plan_of
from interp.whisper.transcription.recording import FRAMES_A_SECOND, Recording
from interp.whisper.transcription.segments import Window


@dataclasses.dataclass(frozen=True)
class Step:
  """What one more window of a recording says. done: seconds of it that are heard. last: whether it is complete."""

  recording: Recording
  segments: list[Segment]
  done: float
  last: bool


@dataclasses.dataclass(frozen=True)
class _Ask:
  plan: Plan
  window: Window
  prompt: list[int]


def steps(r: Recogniser, recordings: Iterable[Recording]) -> Iterator[Step]:
  """What is heard of the recordings, window by window, `r.options.batch` windows at once.

  The steps of one recording are in order; those of several mix. Windows that depend on the one before are batched over
  recordings only. Recordings are taken from the iterable as there is a free row for them.
  """
  waiting = iter(recordings)
  active: list[Plan] = []
  while True:
    asks = _asks(r, active, waiting)
    if not asks:
      return
    yield from _heard(r, asks)
    active = [plan for plan in active if not plan.finished]


def _asks(r: Recogniser, active: list[Plan], waiting: Iterator[Recording]) -> list[_Ask]:
  """The windows of a batch, of the active plans first; plans of waiting recordings become active."""
  asks: list[_Ask] = []
  for plan in active:
    _extend(asks, plan, r.options.batch)
  while len(asks) < r.options.batch:
    recording = next(waiting, None)
    if recording is None:
      break
    active.append(plan_of(r, recording))
    _extend(asks, active[-1], r.options.batch)
  return asks


def _extend(asks: list[_Ask], plan: Plan, limit: int) -> None:
  """Adds the windows of a plan that may be decoded now."""
  most = limit - len(asks) if plan.at_once else min(1, limit - len(asks))
  for _ in range(most):
    if plan.finished:
      return
    asks.append(_Ask(plan, *plan.next()))


def _heard(r: Recogniser, asks: list[_Ask]) -> Iterator[Step]:
  """Decodes a batch."""
  missing = r.options.batch - len(asks)
  rows = [*asks, *[asks[-1]] * missing]  # one shape for all batches
  mels = [ask.plan.recording.window(ask.window.start, ask.window.size) for ask in asks]
  keys = r.keys(np.stack([*mels, *[mels[-1]] * missing]))
  seeds = [r.options.seed + ask.window.start for ask in rows]
  results = r(keys, [ask.prompt for ask in rows], seeds)
  last = {id(ask.plan): row for row, ask in enumerate(asks)}
  for row, (ask, result) in enumerate(zip(asks, results)):
    plan = ask.plan
    found = plan.take(Heard(ask.window, result, keys, row))
    end = ask.window.start + ask.window.size
    complete = plan.finished and last[id(plan)] == row
    seconds = plan.recording.seconds if complete else end / FRAMES_A_SECOND
    yield Step(plan.recording, found, done=seconds, last=complete)
