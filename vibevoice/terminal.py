"""What `python -m vibevoice.synthesize` runs: everything is read and checked before gigabytes of weights are."""

import codecs
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TextIO

import numpy as np

BLOCK = 4096  # bytes of standard input at most in one piece
EVERY = 1.0  # seconds between two reports on a terminal, 10 times that elsewhere


def speak(options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  from vibevoice.inputs.processor import Processor, load_processor

  processor = load_processor(options.model)
  if isinstance(processor, Processor):
    _speak_script(options, processor)
  else:
    _speak_text(options, processor)


def _speak_script(options, processor) -> None:
  """A TTS model reads a whole script."""
  from vibevoice.inputs import budget, script, voices

  lines = script.parse(sys.stdin.read()) if options.script == '-' else script.load(options.script)
  clips = [voices.prepare(path, processor.config) for path in options.voices]
  planned = processor.plan(lines, clips)
  if options.plan:
    print(budget.described(planned))
    return
  processor(lines, clips)
  if planned.excess:
    print(budget.described(planned).splitlines()[-1], file=sys.stderr)
  config, params = load(options)
  frames = _frames(options, config, params, processor, lines, options.voices)
  _write(options, frames, seconds=planned.frame_seconds, expected=planned.expected)


def _speak_text(options, processor) -> None:
  """A Realtime model reads a text, of a file or while it arrives."""
  from vibevoice.config import SAMPLE_RATE
  from vibevoice.inputs import presets

  if options.plan:
    raise ValueError('--plan: this is a Realtime model, which reads its text in pieces; only scripts are planned')
  if len(options.voices) != 1:
    raise ValueError(f'--voices: {len(options.voices)} given; a Realtime model speaks in one voice, a preset')
  pieces = arriving(sys.stdin.buffer) if options.script == '-' else _text(options.script)
  preset = presets.load(options.voices[0], processor.config, dtype=dtype(options))
  config, params = load(options)
  frames = _frames(options, config, params, processor, pieces, [preset])
  _write(options, frames, seconds=config.acoustic.hop / SAMPLE_RATE, expected=0)


def _text(path: str) -> str:
  """The text of a file. Raises OSError, or ValueError that names the file, for one without words or not in UTF-8."""
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: {error}') from error
  if not text.strip():
    raise ValueError(f'{path}: no text to speak')
  return text


def arriving(stream: BinaryIO) -> Iterator[str]:
  """Pieces of UTF-8 text, each as soon as it is there. Raises ValueError for other bytes."""
  decoder = codecs.getincrementaldecoder('utf-8')()
  try:
    while block := stream.read1(BLOCK):
      yield decoder.decode(block)
    yield decoder.decode(b'', final=True)
  except UnicodeDecodeError as error:
    raise ValueError(f'standard input: {error}') from error


def _frames(options, config: Any, params: Any, processor: Any, script: Any, voices: Any) -> Iterator[np.ndarray]:
  import vibevoice

  asked = {'cfg_scale': options.cfg_scale, 'steps': options.steps, 'seed': options.seed}
  return vibevoice.synthesize(params, config, processor, script, voices, **asked, stream=True)


def _write(options, frames: Iterable[np.ndarray], *, seconds: float, expected: int) -> None:
  """Frames to standard output, each when it is made; or to a file, which appears when all are."""
  from core import audio
  from vibevoice.config import SAMPLE_RATE
  from vibevoice.serving import sound

  reported = progress(frames, seconds=seconds, expected=expected, out=sys.stderr)
  if options.out != '-':
    audio.save_wav(options.out, np.concatenate([np.zeros(0, np.float32), *reported]), SAMPLE_RATE)
    return
  for frame in reported:
    sys.stdout.buffer.write(sound.pcm16(frame))
    sys.stdout.buffer.flush()


def dtype(options) -> str:
  """That of weights and arithmetic: the one asked for, or what suits the platform."""
  import jax

  return options.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')


def load(options) -> tuple[Any, Any]:
  """(config, params) as the options ask."""
  import vibevoice
  from vibevoice.generation import int8

  config, params = vibevoice.load(options.model, dtype=dtype(options))
  if options.int8:
    params = int8.quantised(params)
  if options.int8_head:
    params = int8.head_quantised(params)
  return config, params


def progress(
  frames: Iterable[Any], *, seconds: float, expected: int, out: TextIO, clock: Callable[[], float] = time.monotonic
) -> Iterator[Any]:
  """Passes on frames of `seconds` each, and reports their number, their rate, and an estimate of the time left.

  expected: frames in all, an estimate; 0 if there is none. The rate counts from the first frame, whose time is that of
  compilation and prompt.
  """
  is_terminal = out.isatty()
  began = clock()
  first = shown = None
  count = 0
  for count, frame in enumerate(frames, start=1):
    yield frame
    now = clock()
    if first is None:
      first = now
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
  if left > 0:
    return f'{line}, about {_clock(left / rate)} left'
  return line


def _clock(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{rest:02d}'
  return f'{minutes}:{rest:02d}'
