"""Spoken digits: scripts, recordings and voice prompts, in the files that `vibevoice.train` reads.

folder/train.jsonl, heldout.jsonl    {"script", "audio", "voices"}, one line a clip
folder/voices/NAME.wav               what each voice's prompt is: a sentence that is in no clip
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from core import audio
from core.audio import espeak
from vibevoice.config import SAMPLE_RATE

WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
FEWEST, MOST = 3, 6  # digits a clip
# espeak-ng's voice and pitch, far apart in pitch and timbre.
VOICES = {'low': ('en+m3', 30), 'high': ('en+f2', 70)}
WORDS_PER_MINUTE = 190
PROMPT = 'this is my voice'
QUIET = 1e-3  # amplitude that counts as silence at both ends of a clip
DUET = 4  # every fourth clip has two speakers
PAUSE = 0.1  # seconds between them


def sequences(count: int, *, heldout: bool, seed: int = 0) -> list[tuple[int, ...]]:
  """Distinct sequences of 3 to 6 digits; those of held-out clips, a tenth of all, are never trained on."""
  rng = np.random.default_rng((seed, heldout))
  chosen = {}
  while len(chosen) < count:
    digits = tuple(int(d) for d in rng.integers(0, 10, rng.integers(FEWEST, MOST + 1)))
    if (sum((i + 1) * d for i, d in enumerate(digits)) % 10 == 0) == heldout:
      chosen[digits] = None
  return list(chosen)


def text(digits: tuple[int, ...]) -> str:
  """The words of digits, with blanks between."""
  return ' '.join(WORDS[d] for d in digits)


def clip(words: str, voice: str) -> np.ndarray:
  """Words in one of `VOICES`, float32 [samples] at 24 kHz, at -25 dBFS, without silence at the ends."""
  name, pitch = VOICES[voice]
  samples = espeak.speak(words, name, rate=SAMPLE_RATE, words_per_minute=WORDS_PER_MINUTE, pitch=pitch)
  loud = np.flatnonzero(np.abs(samples) > QUIET)
  return audio.at_loudness(samples[loud[0] : loud[-1] + 1])


def write(folder: pathlib.Path, *, train: int, heldout: int, seed: int = 0) -> None:
  """Writes the clips and their lists; a folder with both lists is left as it is."""
  lists = [folder / 'train.jsonl', folder / 'heldout.jsonl']
  if all(path.exists() for path in lists):
    return
  (folder / 'voices').mkdir(parents=True, exist_ok=True)
  for voice in VOICES:
    audio.save_wav(folder / 'voices' / f'{voice}.wav', clip(PROMPT, voice), SAMPLE_RATE)
  for path, count in zip(lists, (train, heldout), strict=True):
    chosen = sequences(count, heldout=path.stem == 'heldout', seed=seed)
    records = [_record(folder, path.stem, i, digits) for i, digits in enumerate(chosen)]
    path.write_text(''.join(json.dumps(record) + '\n' for record in records), encoding='utf-8')


def files(data: Sequence[str], workdir: pathlib.Path, *, clips: int, seed: int) -> tuple[str, ...]:
  """The named data files; without any the list of `clips` training clips, which are made in `workdir`."""
  if data:
    return tuple(data)
  write(workdir / 'data', train=clips, heldout=max(1, clips // 10), seed=seed)
  return (str(workdir / 'data' / 'train.jsonl'),)


def _record(folder: pathlib.Path, split: str, index: int, digits: tuple[int, ...]) -> dict:
  """Writes one clip, by one voice or by two that say half of the digits each. Returns its line."""
  half = len(digits) // 2
  turns = [digits[:half], digits[half:]] if index % DUET == 0 else [digits]
  swapped = (index + index // DUET) % 2
  voices = list(VOICES)[:: -1 if swapped else 1][: len(turns)]
  recording = f'{split}-{index:05d}.wav'
  spoken = [clip(text(turn), voice) for turn, voice in zip(turns, voices)]
  audio.save_wav(folder / recording, _joined(spoken), SAMPLE_RATE)
  lines = [f'Speaker {number}: {text(turn)}' for number, turn in enumerate(turns, 1)]
  return {'script': '\n'.join(lines), 'audio': recording, 'voices': [f'voices/{voice}.wav' for voice in voices]}


def _joined(spoken: Sequence[np.ndarray]) -> np.ndarray:
  """Clips one after the other, with pauses between."""
  pause = np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
  pieces = [piece for samples in spoken for piece in (pause, samples)]
  return np.concatenate(pieces[1:])
