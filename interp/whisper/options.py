"""How recordings are transcribed."""

import dataclasses

from interp.whisper.decoding.rules import NAMES


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings of `transcribe`; the defaults are those of openai/whisper's Python interface.

  rules: set of decoding rules. language: code; None: that of the first 30 s. task: 'transcribe', or 'translate' to
  English. timestamps: segments with times; without, each window is one. words: times of words. beams: of beam search
  at temperature 0, 1: greedy. best_of: samples at other temperatures. patience, length_penalty: of beam search.
  temperatures: tried in order while a window's text repeats itself (`compression` above its limit) or is improbable
  (mean log-probability below `logp`); a window is silence if its no-speech probability is above `no_speech` and its
  text improbable. None switches a limit off. previous: text of earlier windows is the prompt of the next. prompt: text
  before the first window. tokens: of a window at most; None: half the text context. batch: windows decoded at once: of
  one recording with previous=False and timestamps=False, which make windows independent, and otherwise of as many
  recordings (`steps`). seed: of sampling.
  """

  rules: str = 'openai'
  language: str | None = None
  task: str = 'transcribe'
  timestamps: bool = True
  words: bool = False
  beams: int = 1
  best_of: int = 1
  patience: float = 1.0
  length_penalty: float | None = None
  temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
  compression: float | None = 2.4
  logp: float | None = -1.0
  no_speech: float | None = 0.6
  previous: bool = True
  prompt: str = ''
  tokens: int | None = None
  batch: int = 1
  seed: int = 0

  def __post_init__(self):
    if self.rules not in NAMES:
      raise ValueError(f'rules={self.rules!r}; expected one of {list(NAMES)}')
    if self.task not in ('transcribe', 'translate'):
      raise ValueError(f"task={self.task!r}; expected 'transcribe' or 'translate'")
    for name in ('beams', 'best_of', 'batch'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}; expected 1 or more')
    if self.tokens is not None and self.tokens < 1:
      raise ValueError(f'tokens={self.tokens}; expected 1 or more')
    if not self.temperatures or min(self.temperatures) < 0:
      raise ValueError(f'temperatures={self.temperatures}; expected numbers from 0 on')
    if self.patience <= 0:
      raise ValueError(f'patience={self.patience}; expected a number above 0')
