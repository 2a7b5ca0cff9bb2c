"""Which window of a recording is heard next, and which part of its text is kept.

A plan is asked for windows by `next`, and told by `take` what each of them says.
"""

import dataclasses
from typing import Protocol

from core.audio import Segment
from interp.whisper import words
from interp.whisper.config import Config
from interp.whisper.decoding.window import Recogniser, Result
from interp.whisper.options import Options
from interp.whisper.processor import Processor
from interp.whisper.transcription import segments
from interp.whisper.transcription.recording import FRAMES_A_SECOND, Recording
from interp.whisper.transcription.segments import Window

RESET_ABOVE = 0.5  # temperature above which a text is no prompt for the next window


@dataclasses.dataclass(frozen=True)
class Heard:
  """What a window says. keys: `cross_keys` of a batch of windows, in which it is the row `row`."""

  window: Window
  result: Result
  keys: tuple
  row: int


class Plan(Protocol):
  """The windows of one recording. at_once: whether the next window may be asked for before the last one is taken."""

  at_once: bool
  recording: Recording

  @property
  def finished(self) -> bool:
    """Whether there is no next window."""

  def next(self) -> tuple[Window, list[int]]:
    """(the next window, the prompt of its text)."""

  def take(self, heard: Heard) -> list[Segment]:
    """The segments of a window that is heard."""


def plan_of(r: Recogniser, recording: Recording) -> Plan:
  """The plan that the options ask for; the language is that of the first window unless they name it."""
  language = r.options.language
  if language is None:
    language = _language(r, recording)
  independent = not (r.options.timestamps or r.options.previous)
  return (Independent if independent else Sequential)(r, recording, language)


def _language(r: Recogniser, recording: Recording) -> str:
  if not r.processor.languages:
    return 'en'
  window = recording.window(0, min(recording.frames, r.config.frames))
  return r.language(r.keys(window[None]))[0]


class Sequential:
  """Each window begins where the last complete segment of the one before ended, and may be told what was said."""

  at_once = False

  def __init__(self, r: Recogniser, recording: Recording, language: str):
    self.recording = recording
    self._r = r
    self._language = language
    self._history = _first_prompt(r.options, r.processor)
    self._fresh = 0  # history before this is no longer shown
    self._seek = 0

  @property
  def finished(self) -> bool:
    """Whether the end is reached."""
    return self._seek >= self.recording.frames

  def next(self) -> tuple[Window, list[int]]:
    """(window, prompt)."""
    o = self._r.options
    c = self._r.config
    window = _window(self.recording, c, self._seek)
    shown = self._history[self._fresh :][-(c.text_length // 2 - 1) :]
    prompt = self._r.processor.prompt(language=self._language, task=o.task, timestamps=o.timestamps, previous=shown)
    return window, prompt

  def take(self, heard: Heard) -> list[Segment]:
    """Its segments; the next window is then known."""
    o = self._r.options
    window = heard.window
    result = heard.result
    if result.silent(o):
      self._seek += window.size
      return []
    found, advance = segments.cut(result, window, self._r.processor)
    found = [s for s in found if s.start != s.end and s.text.strip()]
    self._history += [token for s in found for token in s.tokens]
    if not o.previous or result.temperature > RESET_ABOVE:
      self._fresh = len(self._history)
    if o.words:
      found = _timed(self._r, heard, found, self._language)
      advance = _exact(found, window, advance)
    self._seek += advance
    return found


class Independent:
  """Windows next to one another, each one segment; none depends on another."""

  at_once = True

  def __init__(self, r: Recogniser, recording: Recording, language: str):
    self.recording = recording
    self._r = r
    self._language = language
    o = r.options
    previous = _first_prompt(r.options, r.processor)
    self._prompt = r.processor.prompt(language=language, task=o.task, timestamps=False, previous=previous)
    self._seek = 0

  @property
  def finished(self) -> bool:
    """Whether all windows are asked for."""
    return self._seek >= self.recording.frames

  def next(self) -> tuple[Window, list[int]]:
    """(window, prompt)."""
    window = _window(self.recording, self._r.config, self._seek)
    self._seek += window.size
    return window, self._prompt

  def take(self, heard: Heard) -> list[Segment]:
    """Its segment, none for silence."""
    result = heard.result
    if result.silent(self._r.options) or not result.text.strip():
      return []
    found = [segments.whole(result, heard.window, self._r.processor)]
    if self._r.options.words:
      return _timed(self._r, heard, found, self._language)
    return found


def _window(recording: Recording, config: Config, start: int) -> Window:
  return Window(start, min(config.frames, recording.frames - start))


def _first_prompt(options: Options, processor: Processor) -> list[int]:
  text = options.prompt.strip()
  if text:
    return processor.encode(f' {text}')
  return []


def _timed(r: Recogniser, heard: Heard, found: list[Segment], language: str) -> list[Segment]:
  """The segments with the times of their words."""
  keys = words.row(heard.keys, heard.row)
  return words.timed(r, keys, found, language, frames=heard.window.size, offset=heard.window.seconds)


def _exact(found: list[Segment], window: Window, advance: int) -> int:
  """Frames to advance: to the end of the last word, which is more exact than a timestamp."""
  ends = [word.end for s in found for word in s.words]
  if advance < window.size and ends and ends[-1] > window.seconds:
    return round(ends[-1] * FRAMES_A_SECOND) - window.start
  return advance
