"""Scripts: who says what, one utterance a line, `Speaker 1: Hello.`; or JSON, [{"speaker": 1, "text": "Hello."}, …]."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence

MAX_SPEAKERS = 4  # the models are trained on up to four
UTTERANCE = re.compile(r'\s*speaker\s+(\d+)\s*:\s*(.*?)\s*', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Line:
  """One utterance; `speaker` as the script numbers them, or from 0 on after `numbered`."""

  speaker: int
  text: str


def parse(text: str) -> tuple[Line, ...]:
  """The utterances of a script in text; blank lines separate and mean nothing.

  Raises ValueError that names the line for one that is not `Speaker <number>: text`, or says nothing, and for an empty
  script.
  """
  numbered_lines = enumerate(text.splitlines(), start=1)
  lines = [_utterance(number, raw) for number, raw in numbered_lines if raw.strip()]
  return _not_empty(lines)


def _utterance(number: int, raw: str) -> Line:
  match = UTTERANCE.fullmatch(raw)
  if match is None:
    raise ValueError(f'script, line {number}: {_short(raw)}: expected "Speaker <number>: text"')
  speaker, text = match.groups()
  if not text:
    raise ValueError(f'script, line {number}: Speaker {speaker} has no text')
  return Line(int(speaker), straight(text))


def parse_json(text: str) -> tuple[Line, ...]:
  """The utterances of a script in JSON.

  Raises ValueError for anything but a list of {"speaker": number, "text": string}, naming the entry.
  """
  try:
    entries = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'script: not JSON: {error}') from error
  if not isinstance(entries, list):
    raise ValueError(f'script: JSON of type {type(entries).__name__}; expected a list of speaker and text')
  return _not_empty([_entry(number, entry) for number, entry in enumerate(entries, start=1)])


def _entry(number: int, entry) -> Line:
  where = f'script, entry {number}'
  if not isinstance(entry, dict) or set(entry) != {'speaker', 'text'}:
    raise ValueError(f'{where}: {_short(json.dumps(entry))}: expected {{"speaker": number, "text": string}}')
  speaker = entry['speaker']
  text = entry['text']
  if not re.fullmatch(r'\d+', str(speaker)):
    raise ValueError(f'{where}: speaker {speaker!r}: expected a number from 0 on')
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'{where}: Speaker {speaker} has no text')
  one_line = ' '.join(text.split())
  return Line(int(speaker), straight(one_line))


def load(path: str | pathlib.Path) -> tuple[Line, ...]:
  """The utterances of a .txt or .json file. Raises OSError, or ValueError that names the file."""
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding='utf-8-sig')
    if path.suffix.lower() == '.json':
      return parse_json(text)
    return parse(text)
  except ValueError as error:  # UnicodeDecodeError is one
    raise ValueError(f'{path}: {error}') from error


def numbered(lines: Sequence[Line], voices: int = 0) -> tuple[Line, ...]:
  """The utterances with the model's numbers: one less than the script's, unless the script counts from 0.

  Numbers are not packed: speakers 2 and 4 become 1 and 3. Voice k belongs to the model's number k, so with `voices`
  the script's speakers must be numbered without gaps from its first on.
  Raises ValueError for more than 4 speakers, for gaps, and for a speaker without a voice.
  """
  speakers = sorted({line.speaker for line in lines})
  first = min(speakers[0], 1)
  if len(speakers) > MAX_SPEAKERS:
    raise ValueError(f'script: {len(speakers)} speakers; the models know up to {MAX_SPEAKERS}')
  if speakers[-1] - first >= MAX_SPEAKERS:
    raise ValueError(f'script: Speaker {speakers[-1]}: expected numbers from {first} to {first + MAX_SPEAKERS - 1}')
  if voices:
    _check_voices(speakers, first, voices)
  return tuple(Line(line.speaker - first, line.text) for line in lines)


def _check_voices(speakers: list[int], first: int, voices: int) -> None:
  expected = list(range(first, first + len(speakers)))
  if speakers != expected:
    raise ValueError(
      f'script: speakers {_listed(speakers)}: voices are given in order to speakers {_listed(expected)}; '
      'renumber the script'
    )
  if len(speakers) > voices:
    raise ValueError(f'script: Speaker {speakers[voices]} has no voice; {voices} given for {len(speakers)} speakers')


def straight(text: str) -> str:
  """Text with ASCII apostrophes, as the published demonstrations feed it."""
  return text.replace('\u2019', "'")


def _not_empty(lines: list[Line]) -> tuple[Line, ...]:
  if not lines:
    raise ValueError('script: no utterances; expected lines such as "Speaker 1: Hello."')
  return tuple(lines)


def _listed(numbers: Sequence[int]) -> str:
  return ', '.join(map(str, numbers))


def _short(text: str) -> str:
  return repr(text if len(text) <= 60 else text[:57] + '...')
