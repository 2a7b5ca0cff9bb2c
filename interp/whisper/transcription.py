"""Recordings of any length to segments: window by window, or independent windows at once."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from core import audio as audio_lib
from core.audio import Segment
from interp.whisper import frontend, words
from interp.whisper.config import HOP, RATE, STRIDE, Config
from interp.whisper.decoding.window import Recogniser, Result
from interp.whisper.model import Params
from interp.whisper.options import Options
from interp.whisper.processor import Processor

FRAMES_A_SECOND = RATE // HOP
DEFAULTS = Options()
RESET_ABOVE = 0.5  # temperature above which a text is no prompt for the next window


@dataclasses.dataclass(frozen=True)
class _Window:
  """Frames of a recording from `start` on, `size` of them real."""

  start: int
  size: int

  @property
  def seconds(self) -> float:
    return self.start / FRAMES_A_SECOND


def transcribe(
  params: Params,
  config: Config,
  processor: Processor,
  audio: str | os.PathLike | np.ndarray,
  options: Options = DEFAULTS,
  *,
  progress: Callable[[float, float], None] | None = None,
  edit: Callable | None = None,
) -> list[Segment]:
  """The segments of a recording: a file, or samples [n] at 16 kHz.

  progress(done, total): called after each window with seconds. edit: as in `core.tap`, in encoder and decoder.
  Raises OSError or ValueError for a recording that cannot be read, and ValueError for options that the model lacks.
  """
  samples = _samples(audio)
  recogniser = Recogniser(params, config, processor, options, edit)
  mel, frames = _features(samples, config)
  language = options.language
  if language is None:
    window = _cut(mel, _Window(0, min(frames, config.frames)), config)
    language = recogniser.language(recogniser.keys(window[None]))[0]
  plan = _independent if not (options.timestamps or options.previous) else _sequential
  segments = []
  for found, done in plan(recogniser, mel, frames, language):
    segments += found
    if progress is not None:
      progress(min(done, frames) / FRAMES_A_SECOND, frames / FRAMES_A_SECOND)
  return segments


def _samples(audio) -> np.ndarray:
  if isinstance(audio, str | pathlib.PurePath | os.PathLike):
    return audio_lib.load(audio, RATE)
  samples = np.asarray(audio, np.float32)
  if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
    raise ValueError(f'audio of shape {samples.shape}; expected one channel of finite samples at 16 kHz')
  return samples


def _features(samples: np.ndarray, config: Config) -> tuple[np.ndarray, int]:
  """(the model's input of the whole recording and a window of silence after it, frames of the recording)."""
  padded = np.pad(samples, (0, -len(samples) % HOP + config.samples))
  frames = max(len(samples) // HOP, 1)
  return frontend.scaled(frontend.log_power(padded, config.mels)), frames


def _cut(mel: np.ndarray, window: _Window, config: Config) -> np.ndarray:
  """One window [frames, mels]; where the recording ends inside it zeros follow, as OpenAI's `transcribe` has it."""
  piece = mel[window.start : window.start + window.size]
  return np.pad(piece, ((0, config.frames - len(piece)), (0, 0)))


def _sequential(r: Recogniser, mel, frames: int, language: str) -> Iterator[tuple[list[Segment], int]]:
  """Windows one after the other: each begins where the last complete segment ended."""
  o, c = r.options, r.config
  history = r.processor.encode(f' {o.prompt.strip()}') if o.prompt.strip() else []
  fresh = 0  # history before this is no longer shown
  seek = 0
  while seek < frames:
    window = _Window(seek, min(c.frames, frames - seek))
    previous = history[fresh:][-(c.text_length // 2 - 1) :]
    prompt = r.processor.prompt(language=language, task=o.task, timestamps=o.timestamps, previous=previous)
    keys = r.keys(_cut(mel, window, c)[None])
    result = r(keys, [prompt], [o.seed + seek])[0]
    if result.silent(o):
      seek += window.size
      yield [], seek
      continue
    found, advance = cut_segments(result, window, r.processor)
    found = [s for s in found if s.start != s.end and s.text.strip()]
    history += [t for s in found for t in s.tokens]
    if not o.previous or result.temperature > RESET_ABOVE:
      fresh = len(history)
    if o.words:
      found = words.timed(r, keys, found, language, frames=window.size, offset=window.seconds)
      spoken = [word.end for s in found for word in s.words]
      if advance < window.size and spoken and spoken[-1] > window.seconds:
        advance = round(spoken[-1] * FRAMES_A_SECOND) - seek  # the last word's end is more exact
    seek += advance
    yield found, seek


def _independent(r: Recogniser, mel, frames: int, language: str) -> Iterator[tuple[list[Segment], int]]:
  """Windows side by side, `batch` at once; their texts do not depend on the batch."""
  o, c = r.options, r.config
  windows = [_Window(at, min(c.frames, frames - at)) for at in range(0, frames, c.frames)]
  previous = r.processor.encode(f' {o.prompt.strip()}') if o.prompt.strip() else []
  prompt = r.processor.prompt(language=language, task=o.task, timestamps=False, previous=previous)
  for first in range(0, len(windows), o.batch):
    batch = windows[first : first + o.batch]
    rows = batch + [batch[-1]] * (o.batch - len(batch))  # one shape for all batches
    keys = r.keys(np.stack([_cut(mel, window, c) for window in rows]))
    results = r(keys, [prompt] * len(rows), [o.seed + window.start for window in rows])
    found = []
    for i, (window, result) in enumerate(zip(batch, results)):
      if result.silent(o) or not result.text.strip():
        continue
      segments = [_segment(result, result.tokens, window.seconds, window.size / FRAMES_A_SECOND, r.processor)]
      if o.words:
        own = words.row(keys, i)
        segments = words.timed(r, own, segments, language, frames=window.size, offset=window.seconds)
      found += segments
    yield found, batch[-1].start + batch[-1].size


def cut_segments(result: Result, window: _Window, processor: Processor) -> tuple[list[Segment], int]:
  """(segments of a window, frames to advance): text is cut at each pair of timestamps.

  Text behind the last pair is heard again in the next window, unless a single timestamp ends it.
  """
  tokens = np.asarray(result.tokens, int)
  times = tokens >= processor.ids.first_timestamp
  ends_once = times[-2:].tolist() == [False, True]
  cuts = (np.flatnonzero(times[:-1] & times[1:]) + 1).tolist()
  if not cuts:
    last = [processor.seconds(t) for t in tokens[times]][-1:]
    duration = last[0] if last and last[0] else window.size / FRAMES_A_SECOND
    return [_segment(result, result.tokens, window.seconds, duration, processor)], window.size
  if ends_once:
    cuts.append(len(tokens))
  segments = []
  for start, stop in zip([0, *cuts], cuts):
    piece = result.tokens[start:stop]
    begin, end = processor.seconds(piece[0]), processor.seconds(piece[-1])
    segments.append(_segment(result, piece, window.seconds + begin, end - begin, processor))
  if ends_once:
    return segments, window.size
  last_time = int(tokens[cuts[-1] - 1]) - processor.ids.first_timestamp
  return segments, last_time * STRIDE


def _segment(result: Result, tokens, start: float, duration: float, processor: Processor) -> Segment:
  return Segment(
    start=round(start, 3),
    end=round(start + duration, 3),
    text=processor.text(tokens),
    tokens=tuple(tokens),
    temperature=result.temperature,
    avg_logp=result.avg_logp,
    no_speech=result.no_speech,
    compression=result.compression,
  )
