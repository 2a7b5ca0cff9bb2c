"""Segments of a transcript as text, SubRip, WebVTT or JSON."""

import dataclasses
import json
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Word:
  """A spoken word: its text with the space before it, times in seconds, mean probability of its tokens."""

  text: str
  start: float
  end: float
  probability: float | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of speech in seconds. avg_logp, no_speech and compression are the recogniser's own measures."""

  start: float
  end: float
  text: str
  tokens: tuple[int, ...] = ()
  words: tuple[Word, ...] = ()
  temperature: float | None = None
  avg_logp: float | None = None
  no_speech: float | None = None
  compression: float | None = None


def clock(seconds: float, mark: str, *, hours: bool = True) -> str:
  """hh:mm:ss.mmm with `mark` before the milliseconds; hours are left out below one if so asked."""
  total = max(round(seconds * 1000), 0)
  rest, milliseconds = divmod(total, 1000)
  minutes, second = divmod(rest, 60)
  hour, minute = divmod(minutes, 60)
  start = ''
  if hours or hour:
    start = f'{hour:02d}:'
  return f'{start}{minute:02d}:{second:02d}{mark}{milliseconds:03d}'


def _cue(text: str) -> str:
  """Text in one cue: an arrow or an empty line would end it early."""
  lines = map(str.strip, text.strip().splitlines())
  joined = '\n'.join(filter(None, lines))
  return joined.replace('-->', '->')


def txt(segments: Sequence[Segment]) -> str:
  """One line a segment."""
  lines = [' '.join(s.text.split()) for s in segments]
  return ''.join(f'{line}\n' for line in lines)


def srt(segments: Sequence[Segment]) -> str:
  """SubRip."""
  cues = []
  for number, s in enumerate(segments, start=1):
    start = clock(s.start, ',')
    end = clock(s.end, ',')
    cues.append(f'{number}\n{start} --> {end}\n{_cue(s.text)}\n\n')
  return ''.join(cues)


def vtt(segments: Sequence[Segment]) -> str:
  """WebVTT."""
  cues = ['WEBVTT\n\n']
  for s in segments:
    start = clock(s.start, '.', hours=False)
    end = clock(s.end, '.', hours=False)
    text = _cue(s.text).replace('&', '&amp;')
    text = text.replace('<', '&lt;')
    cues.append(f'{start} --> {end}\n{text}\n\n')
  return ''.join(cues)


def json_text(segments: Sequence[Segment]) -> str:
  """All that is known of the segments."""
  listed = [dataclasses.asdict(s) for s in segments]
  text = json.dumps({'segments': listed}, ensure_ascii=False, indent=2)
  return text + '\n'


Writer = Callable[[Sequence[Segment]], str]
WRITERS: dict[str, Writer] = {'txt': txt, 'srt': srt, 'vtt': vtt, 'json': json_text}
