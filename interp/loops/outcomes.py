"""What a model says of a clip while components are switched off, each set decoded once and kept in a file."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from core import padding
from interp.loops import repetition
from interp.loops.ablation import Component, without
from interp.loops.clips import Clip
from interp.whisper import frontend
from interp.whisper.decoding.window import Recogniser, Result

ROWS = 64  # sets decoded at once, at most; fewer are padded to a bucket
Parts = tuple[Component, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What was said: text, tokens, compression ratio, and the share of tokens in a repeated phrase."""

  text: str
  tokens: int
  compression: float
  coverage: float

  @property
  def loops(self) -> bool:
    """Whether the text repeats itself."""
    return repetition.loops(self.compression)

  @classmethod
  def of(cls, result: Result) -> 'Outcome':
    """Of a decoded window."""
    covered = repetition.coverage(result.tokens)
    return cls(result.text, len(result.tokens), round(result.compression, 3), round(covered, 3))


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """Outcomes of clips, kept in `folder`; files of other settings or other samples are replaced.

  values: what takes the place of a component. settings: what outcomes depend on other than the samples.
  """

  recogniser: Recogniser
  values: dict | None
  folder: pathlib.Path
  settings: str

  def __call__(self, clip: Clip, sets: Sequence[Parts]) -> list[Outcome]:
    """The outcome without each of the sets of components."""
    kept = self._read(clip)
    names = ['+'.join(map(str, sorted(parts))) for parts in sets]
    missing = {name: parts for name, parts in zip(names, sets) if name not in kept}
    if missing:
      for found in self._decoded(clip, missing):
        kept |= found
        self._write(clip, kept)
    return [kept[name] for name in names]

  def _decoded(self, clip: Clip, sets: dict[str, Parts]) -> Iterator[dict[str, Outcome]]:
    """The outcomes of one batch of sets after the other."""
    r = self.recogniser
    mel = frontend.log_mel(clip.samples, r.config.mels, length=r.config.samples)
    keys = r.keys(mel[None])
    prompt = r.processor.prompt(language='en', timestamps=False)
    names = list(sets)
    rows = min(padding.bucket(len(names), 1), ROWS)
    for first in range(0, len(names), rows):
      batch = names[first : first + rows]
      padded = batch + [batch[-1]] * (rows - len(batch))  # one shape for all
      edit = without(r.config, [sets[name] for name in padded], self.values)
      results = r.edited(edit)(keys, [prompt] * rows, [0] * rows)
      yield {name: Outcome.of(result) for name, result in zip(batch, results)}

  def _file(self, clip: Clip) -> pathlib.Path:
    return self.folder / f'{clip.name}.json'

  def _read(self, clip: Clip) -> dict[str, Outcome]:
    if not self._file(clip).is_file():
      return {}
    found = json.loads(self._file(clip).read_text(encoding='utf-8'))
    if found['settings'] != self.settings or found['digest'] != clip.digest:
      return {}
    return {name: Outcome(**values) for name, values in found['outcomes'].items()}

  def _write(self, clip: Clip, kept: dict[str, Outcome]) -> None:
    outcomes = {name: dataclasses.asdict(outcome) for name, outcome in kept.items()}
    text = json.dumps({'settings': self.settings, 'digest': clip.digest, 'outcomes': outcomes})
    self.folder.mkdir(parents=True, exist_ok=True)
    fresh = self._file(clip).with_suffix('.part')
    fresh.write_text(text, encoding='utf-8')
    fresh.replace(self._file(clip))


def unedited(outcomes: Outcomes, clips: Sequence[Clip]) -> list[Outcome]:
  """What the model says of each clip."""
  return [outcomes(clip, [()])[0] for clip in clips]


def ended(outcomes: Outcomes, clips: Sequence[Clip], sets: Sequence[Parts]) -> np.ndarray:
  """bool [sets, clips]: whether the clip no longer loops without the set."""
  table = [[not outcome.loops for outcome in outcomes(clip, sets)] for clip in clips]
  return np.asarray(table, bool).T.reshape(len(sets), len(clips))
