"""The text of a window as segments with times."""

import dataclasses

import numpy as np

from core.audio import Segment
from interp.whisper.config import STRIDE
from interp.whisper.decoding.window import Result
from interp.whisper.processor import Processor
from interp.whisper.transcription.recording import FRAMES_A_SECOND


@dataclasses.dataclass(frozen=True)
class Window:
  """Frames of a recording from `start` on, `size` of them real."""

  start: int
  size: int

  @property
  def seconds(self) -> float:
    """When it begins."""
    return self.start / FRAMES_A_SECOND

  @property
  def duration(self) -> float:
    """Seconds."""
    return self.size / FRAMES_A_SECOND


def cut(result: Result, window: Window, processor: Processor) -> tuple[list[Segment], int]:
  """(segments of a window, frames to advance): text is cut at each pair of timestamps.

  Text after the last pair is heard again in the next window, unless a single timestamp ends it.
  """
  tokens = np.asarray(result.tokens, int)
  times = tokens >= processor.ids.first_timestamp
  ends_once = times[-2:].tolist() == [False, True]
  cuts = (np.flatnonzero(times[:-1] & times[1:]) + 1).tolist()
  if not cuts:
    last = [processor.seconds(t) for t in tokens[times]][-1:]
    duration = last[0] if last and last[0] else window.duration
    return [whole(result, window, processor, duration=duration)], window.size
  if ends_once:
    cuts.append(len(tokens))
  segments = []
  for start, stop in zip([0, *cuts], cuts):
    piece = result.tokens[start:stop]
    begin = processor.seconds(piece[0])
    end = processor.seconds(piece[-1])
    segments.append(_segment(result, piece, processor, start=window.seconds + begin, duration=end - begin))
  if ends_once:
    return segments, window.size
  last_time = int(tokens[cuts[-1] - 1]) - processor.ids.first_timestamp
  return segments, last_time * STRIDE


def whole(result: Result, window: Window, processor: Processor, *, duration: float | None = None) -> Segment:
  """All of a window's text as one segment, of the window's duration in seconds by default."""
  seconds = window.duration if duration is None else duration
  return _segment(result, result.tokens, processor, start=window.seconds, duration=seconds)


def _segment(result: Result, tokens, processor: Processor, *, start: float, duration: float) -> Segment:
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
