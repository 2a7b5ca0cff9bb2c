"""How much of spoken digits a recogniser hears: in the recordings, through the codec, and in synthesised speech.

    python -m vibevoice.compare --model=FOLDER --data=heldout.jsonl --out=spoken --clips=60
    python -m bench.speech.heard --spoken=spoken --model=WHISPER

WHISPER is a CTranslate2 checkpoint of Whisper, which --engine=ctranslate2 runs by that library. What counts is digits
right: those asked for, minus substitutions, deletions and insertions. A voice is recognised by its mean log mel
spectrum: the nearest mean of the recordings with one speaker; of clips with two, the first and the last third count.
heard.json in the folder gets every transcript, heard.png the spectra of the first clips.
"""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.speech import recognisers, spectrograms
from core import audio
from core.audio.edits import aligned
from core.launch import command
from core.launch.fields import field
from core.report.intervals import wilson
from vibevoice.toy.digits import WORDS

KINDS = ('recording', 'codec', 'speech')
DIGITS = {word: str(i) for i, word in enumerate(WORDS)} | {'oh': '0'}
RATE = 16_000
DRAWN = 4  # clips in the picture


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  spoken: str | None = field(None, 'folder that vibevoice.compare wrote')
  model: str | None = field(None, 'folder of a CTranslate2 checkpoint of Whisper')
  engine: recognisers.Name = field('ours', 'what runs the recogniser')

  def __post_init__(self):
    if not self.spoken or not self.model:
      raise ValueError('--spoken=FOLDER and --model=FOLDER are needed')


@dataclasses.dataclass(frozen=True)
class Count:
  """How many of `total` are right."""

  right: int
  total: int

  def __str__(self) -> str:
    low, high = wilson(self.right, self.total)
    return f'{self.right} of {self.total}, {self.right / self.total:.1%} ({low:.1%} to {high:.1%})'


def digits(text: str) -> str:
  """The digits that a text spells in figures or words: 'Four, 34 oh' is '4340'."""
  words = re.findall(r'[a-z]+|[0-9]', text.lower())
  return ''.join(DIGITS.get(word, word) for word in words if word in DIGITS or word.isdigit())


def digits_right(script: str, heard: str) -> Count:
  """Digits of a script that a transcript has, fewer by one for each that it adds."""
  lines = [line.partition(':')[2] for line in script.splitlines()]
  asked = digits(' '.join(lines))
  edits = aligned(asked, digits(heard))
  return Count(max(edits.length - edits.total, 0), edits.length)


def timbre(samples: np.ndarray) -> np.ndarray:
  """Mean log mel spectrum [40] of speech [n] at `RATE`, without its mean, so that loudness does not count."""
  power = np.asarray(audio.power_spectrum(samples, size=512, hop=128))
  filters = np.asarray(audio.mel_filters(40, rate=RATE, size=512))
  logs = np.log(power @ filters.T + 1e-8)
  loudness = logs.mean(1)
  is_loud = loudness >= np.median(loudness)
  mean = logs[is_loud].mean(0)
  return mean - mean.mean()


def voices_right(rows: Sequence[Mapping], clips: Sequence[np.ndarray], known: Mapping[str, np.ndarray]) -> Count:
  """How many parts of clips are nearest to the voice that their script gives them; known: timbre by voice."""
  right = 0
  total = 0
  for row, clip in zip(rows, clips):
    voices = row['voices']
    for voice, part in zip(voices, _parts(clip, len(voices))):
      right += _nearest(timbre(part), known) == voice
      total += 1
  return Count(right, total)


def _nearest(heard: np.ndarray, known: Mapping[str, np.ndarray]) -> str:
  """The voice whose timbre is nearest; of equal ones the first."""
  distances = {voice: np.linalg.norm(heard - own) for voice, own in known.items()}
  return min(distances, key=distances.__getitem__)


def _parts(clip: np.ndarray, speakers: int) -> list[np.ndarray]:
  """The whole clip of one speaker; of two the first and the last third."""
  third = len(clip) // 3
  if speakers == 1:
    return [clip]
  return [clip[:third], clip[-third:]]


def known_voices(rows: Sequence[Mapping], recordings: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
  """Mean timbre of each voice, over recordings with one speaker."""
  by_voice: dict[str, list[np.ndarray]] = {}
  for row, clip in zip(rows, recordings):
    voices = row['voices']
    if len(voices) == 1:
      by_voice.setdefault(voices[0], []).append(timbre(clip))
  return {voice: np.mean(timbres, 0) for voice, timbres in by_voice.items()}


def measure(rows: Sequence[Mapping], clips: Mapping[str, Sequence[np.ndarray]], hear) -> dict[str, Any]:
  """Transcripts and counts by kind. clips: float32 [n] at `RATE` of each kind; hear: samples to text."""
  voices = known_voices(rows, clips['recording'])
  results = {}
  for kind in clips:
    texts = [hear(clip) for clip in clips[kind]]
    counts = [digits_right(row['script'], text) for row, text in zip(rows, texts)]
    right = sum(count.right for count in counts)
    asked = sum(count.total for count in counts)
    total = Count(right, asked)
    recognised = voices_right(rows, clips[kind], voices)
    print(f'{kind:10} digits {total}; voices {recognised}', flush=True)
    results[kind] = {
      'digits': dataclasses.asdict(total),
      'voices': dataclasses.asdict(recognised),
      'transcripts': texts,
    }
  return results


def work(options: Options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  from interp.whisper import CONFIGS, frontend

  folder = pathlib.Path(options.spoken)
  rows = json.loads((folder / 'results.json').read_text(encoding='utf-8'))
  recognise = recognisers.recogniser(options.engine, options.model)
  length = CONFIGS['tiny'].samples

  def hear(samples) -> str:
    return recognise(frontend.log_mel(samples, 80, length=length))

  clips = {}
  for kind in KINDS:
    paths = [folder / f'{i:04d}-{kind}.wav' for i in range(len(rows))]
    clips[kind] = [audio.load(path, RATE) for path in paths]
  results = measure(rows, clips, hear)
  spoken = results['speech']['digits']['right']
  recorded = results['recording']['digits']['right']
  share = spoken / max(recorded, 1)
  print(f'of what is heard in the recordings, {share:.1%} is heard in the speech')
  text = json.dumps(results, indent=2)
  (folder / 'heard.json').write_text(text + '\n', encoding='utf-8')
  shown = rows[:DRAWN]
  spectrograms.draw(folder / 'heard.png', rows=shown, clips=clips, results=results, rate=RATE)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
