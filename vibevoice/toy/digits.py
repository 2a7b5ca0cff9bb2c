"""Spoken digits: scripts, recordings and voice prompts, in the files that `vibevoice.train` reads.

folder/train.jsonl, heldout.jsonl    {"script", "audio", "voices"}, one line a clip
folder/voices/NAME.wav               the prompt of each voice: a sentence that is in no clip
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from core import audio
from core.audio import espeak
from vibevoice.config import SAMPLE_RATE

WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
FEWEST = 3  # digits of a clip
MOST = 6
# espeak-ng's voice and pitch; the two differ clearly in pitch and timbre.
VOICES = {'low': ('en+m3', 30), 'high': ('en+f2', 70)}
WORDS_PER_MINUTE = 190
PROMPT = 'my voice'
QUIET = 1e-3  # amplitude that counts as silence at both ends of a word
# Samples of a frame of the small model. Words begin at multiples: a word sounds the same, and has the same latents,
# at every position, so a small model learns it from few clips.
FRAME = 1600
DUET = 4  # every fourth clip has two speakers


def sequences(count: int, *, heldout: bool, seed: int = 0) -> list[tuple[int, ...]]:
  """`count` distinct sequences of 3 to 6 digits; a held-out sequence, one in ten, is never a training sequence."""
  rng = np.random.default_rng((seed, heldout))
  chosen = {}
  while len(chosen) < count:
    length = rng.integers(FEWEST, MOST + 1)
    drawn = rng.integers(0, 10, length)
    digits = tuple(drawn.tolist())
    if _is_heldout(digits) == heldout:
      chosen[digits] = None
  return list(chosen)


def _is_heldout(digits: tuple[int, ...]) -> bool:
  """Whether the sum of the digits, each times its place, is a multiple of 10."""
  weighted = (place * digit for place, digit in enumerate(digits, 1))
  return sum(weighted) % 10 == 0


def text(digits: tuple[int, ...]) -> str:
  """The words of digits, separated by spaces."""
  return ' '.join(WORDS[d] for d in digits)


def clip(words: str, voice: str) -> np.ndarray:
  """Words in one of `VOICES`, float32 [samples] at 24 kHz, at -25 dBFS; each takes whole frames."""
  pieces = [_word(word, voice) for word in words.split()]
  return audio.at_loudness(np.concatenate(pieces))


def _word(word: str, voice: str) -> np.ndarray:
  """One word, without the silence before it, and padded to whole frames."""
  name, pitch = VOICES[voice]
  samples = espeak.speak(word, name, rate=SAMPLE_RATE, words_per_minute=WORDS_PER_MINUTE, pitch=pitch)
  loud = np.flatnonzero(np.abs(samples) > QUIET)
  spoken = samples[loud[0] : loud[-1] + 1]
  return np.pad(spoken, (0, -len(spoken) % FRAME))


def write(folder: pathlib.Path, *, train: int, heldout: int, seed: int = 0) -> None:
  """Writes the voice prompts, the clips and their lists; does nothing if both lists exist."""
  lists = {folder / 'train.jsonl': train, folder / 'heldout.jsonl': heldout}
  if all(path.exists() for path in lists):
    return
  voices = folder / 'voices'
  voices.mkdir(parents=True, exist_ok=True)
  for voice in VOICES:
    prompt = clip(PROMPT, voice)
    audio.save_wav(voices / f'{voice}.wav', prompt, SAMPLE_RATE)
  for path, count in lists.items():
    split = path.stem
    chosen = sequences(count, heldout=split == 'heldout', seed=seed)
    records = [_record(folder, split, i, digits) for i, digits in enumerate(chosen)]
    lines = [json.dumps(record) + '\n' for record in records]
    path.write_text(''.join(lines), encoding='utf-8')


def files(data: Sequence[str], workdir: pathlib.Path, *, clips: int, seed: int) -> tuple[str, ...]:
  """The data files given; if none are, the list of `clips` training clips, which it makes in `workdir`."""
  if data:
    return tuple(data)
  folder = workdir / 'data'
  write(folder, train=clips, heldout=max(1, clips // 10), seed=seed)
  return (str(folder / 'train.jsonl'),)


def _record(folder: pathlib.Path, split: str, index: int, digits: tuple[int, ...]) -> dict:
  """Writes one clip, by one voice or by two that each say half of the digits. Returns its record in the list."""
  turns = [digits]
  if index % DUET == 0:
    turns = _turns(digits)
  voices = _voices(index, len(turns))
  words = [text(turn) for turn in turns]
  spoken = [clip(line, voice) for line, voice in zip(words, voices)]
  recording = f'{split}-{index:05d}.wav'
  audio.save_wav(folder / recording, _joined(spoken), SAMPLE_RATE)
  script = [f'Speaker {number}: {line}' for number, line in enumerate(words, 1)]
  prompts = [f'voices/{voice}.wav' for voice in voices]
  return {'script': '\n'.join(script), 'audio': recording, 'voices': prompts}


def _turns(digits: tuple[int, ...]) -> list[tuple[int, ...]]:
  """The digits of the first and of the second speaker."""
  half = len(digits) // 2
  return [digits[:half], digits[half:]]


def _voices(index: int, count: int) -> list[str]:
  """The first `count` voices of clip `index`; which of them comes first alternates."""
  names = list(VOICES)
  swapped = (index + index // DUET) % 2
  if swapped:
    names.reverse()
  return names[:count]


def _joined(spoken: Sequence[np.ndarray]) -> np.ndarray:
  """Clips one after the other, with a frame of silence between each two."""
  pause = np.zeros(FRAME, np.float32)
  pieces = [spoken[0]]
  for samples in spoken[1:]:
    pieces += [pause, samples]
  return np.concatenate(pieces)
