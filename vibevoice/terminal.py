"""What `python -m vibevoice.synthesize` runs: everything is read and checked before gigabytes of weights are."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import numpy as np

EVERY = 1.0  # seconds between two reports on a terminal, 10 times that elsewhere


def speak(options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  from vibevoice.inputs import budget, script, voices
  from vibevoice.inputs.processor import Processor

  processor = Processor.load(options.model)
  lines = script.load(options.script)
  clips = [voices.prepare(path, processor.config) for path in options.voices]
  planned = processor.plan(lines, clips)
  if options.plan:
    print(budget.described(planned))
    return
  processor(lines, clips)
  if planned.excess:
    print(budget.described(planned).splitlines()[-1], file=sys.stderr)
  config, params = load(options)
  import vibevoice
  from core import audio
  from vibevoice.config import SAMPLE_RATE

  chunks = vibevoice.synthesize(
    params,
    config,
    processor,
    lines,
    options.voices,
    cfg_scale=options.cfg_scale,
    steps=options.steps,
    seed=options.seed,
    stream=True,
  )
  reported = progress(chunks, seconds=planned.frame_seconds, expected=planned.expected, out=sys.stderr)
  audio.save_wav(options.out, np.concatenate([np.zeros(0, np.float32), *reported]), SAMPLE_RATE)


def load(options) -> tuple[Any, Any]:
  """(config, params) as the options ask."""
  import jax

  import vibevoice

  dtype = options.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  return vibevoice.load(options.model, dtype=dtype)


def progress(
  frames: Iterable[Any], *, seconds: float, expected: int, out: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Any]:
  """Passes on frames of `seconds` each, and reports their number, their rate, and an estimate of the time left.

  expected: frames in all, an estimate. The rate counts from the first frame, whose time is that of compilation and
  prompt.
  """
  is_terminal = out.isatty()
  began = clock()
  first = shown = None
  count = 0
  for count, frame in enumerate(frames, start=1):
    yield frame
    now = clock()
    first = now if first is None else first
    due = EVERY if is_terminal else 10 * EVERY
    if shown is None or now - shown >= due:
      shown = now
      print(_line(count, now - first, seconds, expected), end='\r' if is_terminal else '\n', file=out, flush=True)
  if count:
    first_frame = f'first frame after {first - began:.1f} s'
    print(f'{_line(count, clock() - first, seconds, count)}; {first_frame}', file=out, flush=True)


def _line(count: int, elapsed: float, seconds: float, expected: int) -> str:
  """One report after `count` frames, `elapsed` seconds after the first of them."""
  said = f'{count} frames, {_clock(count * seconds)} of speech'
  if count == 1 or elapsed <= 0:
    return said
  rate = (count - 1) / elapsed
  line = f'{said}, {rate:.1f} frames/s, real-time factor {1 / (rate * seconds):.2f}'
  left = expected - count
  return f'{line}, about {_clock(left / rate)} left' if left > 0 else line


def _clock(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
