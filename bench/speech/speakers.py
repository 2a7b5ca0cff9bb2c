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
Timed = tuple[str, float, float]  # word, start, end
Slice = tuple[float, frozenset[str], frozenset[str]]  # seconds, reference speakers, hypothesis speakers


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of speech of one speaker; times in seconds. A non-speech segment has no speaker."""

  start: float
  end: float
  speaker: str
  text: str


def read_segments(text: str) -> list[Segment] | None:
  """Segments of a transcript in VibeVoice-ASR's JSON (Start, End, Speaker, Content); None for any other text.

  A code fence around the list is skipped; of a truncated list the complete segments are read.
  """
  start = text.find('[')
  if start < 0 or text[:start].strip(' \n\r\t`') not in ('', 'json'):
    return None
  rows = _objects(text, start + 1)
  if not rows or not all(map(_is_segment, rows)):
    return None
  return list(map(make_segment, rows))


def _objects(text: str, at: int) -> list[dict]:
  """The JSON objects from `at` on, separated by blanks and commas, up to the first thing that is none."""
  decode = json.JSONDecoder().raw_decode
  objects = []
  while True:
    window = text[at : at + 100]
    at += len(window) - len(window.lstrip(' \n\r\t,'))
    if not text.startswith('{', at):
      return objects
    try:
      value, at = decode(text, at)
    except (ValueError, RecursionError):
      return objects
    objects.append(value)


def _lower_keys(value: dict) -> dict:
  return {str(key).lower(): item for key, item in value.items()}


def _is_segment(value: dict) -> bool:
  lower = _lower_keys(value)
  text = lower.get('content', lower.get('text'))
  return _is_time(lower.get('start')) and _is_time(lower.get('end')) and isinstance(text, str)


def _is_time(value) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def make_segment(value: dict) -> Segment:
  """A segment of a row; raises ValueError if times or text are missing."""
  if not isinstance(value, dict) or not _is_segment(value):
    raise ValueError('a segment needs numbers start and end, and a text')
  lower = _lower_keys(value)
  speaker = lower.get('speaker')
  return Segment(
    start=float(lower['start']),
    end=float(lower['end']),
    speaker='' if speaker is None else str(speaker),
    text=lower.get('content', lower.get('text')),
  )


def cpwer(reference: Sequence[Segment], hypothesis: Sequence[Segment], normalise: Callable[[str], str]) -> Edits:
  """WER of the concatenated words of each speaker, speakers assigned one to one for the fewest edits."""

  def count(a: list[Timed], b: list[Timed]) -> Edits:
    return edits(_spoken(a), _spoken(b))

  return _best_assignment(_words(reference, normalise), _words(hypothesis, normalise), count)


def tcpwer(
  reference: Sequence[Segment],
  hypothesis: Sequence[Segment],
  normalise: Callable[[str], str],
  *,
  collar: float = COLLAR,
) -> Edits:
  """cpWER in which a word aligns only with a reference word whose span, widened by the collar, contains its middle.

  A segment's time is divided among its words by their length in characters, as meeteval does by default.
  """

  def count(a: list[Timed], b: list[Timed]) -> Edits:
    starts = np.array([start for _, start, _ in a])
    ends = np.array([end for _, _, end in a])
    middles = np.array([(start + end) / 2 for _, start, end in b])
    is_after_start = middles >= starts[:, None] - collar
    is_before_end = middles <= ends[:, None] + collar
    return aligned(_spoken(a), _spoken(b), is_after_start & is_before_end)

  return _best_assignment(_words(reference, normalise), _words(hypothesis, normalise), count)


def _spoken(words: list[Timed]) -> list[str]:
  return [word for word, _, _ in words]


def _words(segments: Sequence[Segment], normalise: Callable[[str], str]) -> list[list[Timed]]:
  """The words of each speaker in order of time."""
  speakers: dict[str, list[Timed]] = {}
  for segment in sorted(segments, key=lambda s: (s.start, s.end)):
    words = normalise(segment.text).split()
    if not words or not segment.speaker:
      continue
    ends = list(itertools.accumulate(map(len, words)))  # in characters
    seconds = (segment.end - segment.start) / ends[-1]  # of a character
    timed = speakers.setdefault(segment.speaker, [])
    for word, end in zip(words, ends):
      first = segment.start + (end - len(word)) * seconds
      last = segment.start + end * seconds
      timed.append((word, first, last))
  return list(speakers.values())


def _best_assignment(
  reference: list[list[Timed]], hypothesis: list[list[Timed]], count: Callable[[list, list], Edits]
) -> Edits:
  """The sum over the best one-to-one assignment; an unassigned speaker is all deletions or all insertions."""
  size = max(len(reference), len(hypothesis))
  if not size:
    return Edits(0, 0, 0, 0)
  rows = reference + [[]] * (size - len(reference))
  columns = hypothesis + [[]] * (size - len(hypothesis))
  table = [[count(a, b) for b in columns] for a in rows]
  costs = [[cell.total for cell in row] for row in table]
  chosen = [table[i][j] for i, j in zip(*linear_sum_assignment(costs))]
  counts = zip(*map(dataclasses.astuple, chosen))
  return Edits(*map(sum, counts))


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

  collar: seconds on each side of a reference boundary that are not scored. overlap: whether time with several
  reference speakers is scored.
  """
  reference = [s for s in reference if s.speaker and s.end > s.start]
  hypothesis = [s for s in hypothesis if s.speaker and s.end > s.start]
  slices = _slices(reference, hypothesis, collar)
  if not overlap:
    slices = [(seconds, a, b) for seconds, a, b in slices if len(a) < 2]
  partner = _partners(slices)
  missed = false_alarm = confused = speech = 0.0
  for seconds, a, b in slices:
    right = sum(partner.get(speaker) in b for speaker in a)
    both = min(len(a), len(b))
    missed += seconds * (len(a) - both)
    false_alarm += seconds * (len(b) - both)
    confused += seconds * (both - right)
    speech += seconds * len(a)
  return Diarization(missed=missed, false_alarm=false_alarm, confused=confused, speech=speech)


def _partners(slices: list[Slice]) -> dict[str, str]:
  """Reference speaker → hypothesis speaker, one to one, for the most time in common."""
  reference = sorted({speaker for _, a, _ in slices for speaker in a})
  hypothesis = sorted({speaker for _, _, b in slices for speaker in b})
  common = np.zeros((len(reference), len(hypothesis)))
  if not common.size:
    return {}
  for seconds, a, b in slices:
    for x, y in itertools.product(a, b):
      common[reference.index(x), hypothesis.index(y)] += seconds
  rows, columns = linear_sum_assignment(-common)
  return {reference[i]: hypothesis[j] for i, j in zip(rows, columns)}


def _slices(reference: Sequence[Segment], hypothesis: Sequence[Segment], collar: float) -> list[Slice]:
  """The stretches between adjacent boundaries in which someone speaks, without the collars."""
  edges = _edges(reference)
  cuts = {*edges, *_edges(hypothesis)}
  if collar:
    cuts |= {edge + side for edge in edges for side in (-collar, collar)}
  slices = []
  for start, end in itertools.pairwise(sorted(cuts)):
    middle = (start + end) / 2
    distances = np.abs(np.array(edges) - middle)
    if collar and np.any(distances < collar):
      continue
    a = _speaking(reference, middle)
    b = _speaking(hypothesis, middle)
    if a or b:
      slices.append((end - start, a, b))
  return slices


def _edges(segments: Sequence[Segment]) -> list[float]:
  return [edge for segment in segments for edge in (segment.start, segment.end)]


def _speaking(segments: Sequence[Segment], time: float) -> frozenset[str]:
  return frozenset(s.speaker for s in segments if s.start < time < s.end)
