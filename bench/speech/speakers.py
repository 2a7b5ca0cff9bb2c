"""Who spoke when and what: segments, cpWER, tcpWER and the diarization error rate."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.speech.wer import Edits, aligned, edits

COLLAR = 5.0


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of speech of one speaker; times in seconds. A non-speech segment has no speaker."""

  start: float
  end: float
  speaker: str
  text: str


def read_segments(text: str) -> list[Segment] | None:
  """Segments of a transcript in VibeVoice-ASR's JSON (Start, End, Speaker, Content); None for any other text.

  A code fence around the list and a list cut in the middle are read as far as they go.
  """
  start = text.find('[')
  if start < 0 or text[:start].strip(' \n\r\t`') not in ('', 'json'):
    return None
  decode, found, at = json.JSONDecoder().raw_decode, [], start + 1
  while True:
    at += len(text[at : at + 100]) - len(text[at : at + 100].lstrip(' \n\r\t,'))
    if at >= len(text) or text[at] != '{':
      break
    try:
      value, at = decode(text, at)
    except (ValueError, RecursionError):
      break
    found.append(value)
  return [make_segment(value) for value in found] if found and all(_is_segment(v) for v in found) else None


def _is_segment(value) -> bool:
  lower = {str(k).lower(): v for k, v in value.items()}
  times = [lower.get('start'), lower.get('end')]
  return all(isinstance(t, (int, float)) and not isinstance(t, bool) and math.isfinite(t) for t in times) and (
    isinstance(lower.get('content', lower.get('text')), str)
  )


def make_segment(value: dict) -> Segment:
  """A segment of a row; raises ValueError where times or text are missing."""
  if not isinstance(value, dict) or not _is_segment(value):
    raise ValueError('a segment needs numbers start and end, and a text')
  lower = {str(k).lower(): v for k, v in value.items()}
  speaker = lower.get('speaker')
  return Segment(
    float(lower['start']),
    float(lower['end']),
    '' if speaker is None else str(speaker),
    lower.get('content', lower.get('text')),
  )


def cpwer(reference: Sequence[Segment], hypothesis: Sequence[Segment], normalise: Callable[[str], str]) -> Edits:
  """WER of each speaker's words put together, speakers assigned one to one for the fewest edits."""
  ours, theirs = _words(reference, normalise), _words(hypothesis, normalise)
  return _best_assignment(
    list(ours.values()), list(theirs.values()), lambda a, b: edits([w for w, _, _ in a], [w for w, _, _ in b])
  )


def tcpwer(
  reference: Sequence[Segment],
  hypothesis: Sequence[Segment],
  normalise: Callable[[str], str],
  *,
  collar: float = COLLAR,
) -> Edits:
  """cpWER in which a word aligns only with one whose span, widened by the collar, holds its middle.

  A segment's time is shared among its words by their length in characters, as meeteval does by default.
  """
  ours, theirs = _words(reference, normalise), _words(hypothesis, normalise)

  def timed(a, b):
    starts, ends = (np.array([word[k] for word in a]).reshape(-1, 1) for k in (1, 2))
    middles = np.array([(start + end) / 2 for _, start, end in b]).reshape(1, -1)
    near = (starts - collar <= middles) & (middles <= ends + collar)
    return aligned([w for w, _, _ in a], [w for w, _, _ in b], near)

  return _best_assignment(list(ours.values()), list(theirs.values()), timed)


def _words(segments: Sequence[Segment], normalise) -> dict[str, list[tuple[str, float, float]]]:
  """speaker → (word, start, end) in order of time."""
  speakers: dict[str, list] = {}
  for s in sorted(segments, key=lambda s: (s.start, s.end)):
    words = normalise(s.text).split()
    if not words or not s.speaker:
      continue
    ends = list(itertools.accumulate(len(word) for word in words))
    second = (s.end - s.start) / ends[-1]
    speakers.setdefault(s.speaker, []).extend(
      (word, s.start + (end - len(word)) * second, s.start + end * second) for word, end in zip(words, ends)
    )
  return speakers


def _best_assignment(ours: list, theirs: list, count: Callable[[list, list], Edits]) -> Edits:
  """The sum over the best one-to-one assignment; a speaker left over is all deletions or all insertions."""
  size = max(len(ours), len(theirs))
  pad = lambda streams: streams + [[]] * (size - len(streams))
  table = [[count(a, b) for b in pad(theirs)] for a in pad(ours)]
  if not table:
    return Edits(0, 0, 0, 0)
  rows, columns = linear_sum_assignment([[cell.total for cell in row] for row in table])
  chosen = [table[i][j] for i, j in zip(rows, columns)]
  return Edits(*(sum(getattr(c, f.name) for c in chosen) for f in dataclasses.fields(Edits)))


@dataclasses.dataclass(frozen=True)
class Diarization:
  """Seconds of missed, false and confused speech, and of reference speech."""

  missed: float
  false_alarm: float
  confused: float
  speech: float

  @property
  def errors(self) -> float:
    return self.missed + self.false_alarm + self.confused


def der(
  reference: Sequence[Segment], hypothesis: Sequence[Segment], *, collar: float = 0.0, overlap: bool = True
) -> Diarization:
  """Diarization error over the best one-to-one mapping of speakers.

  collar: seconds on each side of a reference boundary that are not scored. overlap: score time with several
  reference speakers too.
  """
  reference = [s for s in reference if s.speaker and s.end > s.start]
  hypothesis = [s for s in hypothesis if s.speaker and s.end > s.start]
  slices = _slices(reference, hypothesis, collar)
  if not overlap:
    slices = [piece for piece in slices if len(piece[1]) < 2]
  ours = sorted({s.speaker for s in reference})
  theirs = sorted({s.speaker for s in hypothesis})
  shared = np.zeros((len(ours), len(theirs)))
  for seconds, a, b in slices:
    for x, y in itertools.product(a, b):
      shared[ours.index(x), theirs.index(y)] += seconds
  partner = {ours[i]: theirs[j] for i, j in zip(*linear_sum_assignment(-shared))} if shared.size else {}
  missed = false = confused = speech = 0.0
  for seconds, a, b in slices:
    right = sum(partner.get(x) in b for x in a)
    missed += seconds * max(0, len(a) - len(b))
    false += seconds * max(0, len(b) - len(a))
    confused += seconds * (min(len(a), len(b)) - right)
    speech += seconds * len(a)
  return Diarization(missed, false, confused, speech)


def _slices(reference, hypothesis, collar) -> list[tuple[float, frozenset, frozenset]]:
  """(seconds, reference speakers, hypothesis speakers) between neighbouring boundaries, collars left out."""
  edges = [edge for s in reference for edge in (s.start, s.end)]
  cuts = {edge for s in hypothesis for edge in (s.start, s.end)} | set(edges)
  if collar:
    cuts |= {edge + side for edge in edges for side in (-collar, collar)}
  cuts = sorted(cuts)
  edges = np.array(edges)
  out = []
  for start, end in itertools.pairwise(cuts):
    middle = (start + end) / 2
    if collar and np.any(np.abs(edges - middle) < collar):
      continue
    out.append((end - start, _speaking(reference, middle), _speaking(hypothesis, middle)))
  return [piece for piece in out if piece[1] or piece[2]]


def _speaking(segments: Sequence[Segment], time: float) -> frozenset[str]:
  return frozenset(s.speaker for s in segments if s.start < time < s.end)
