"""Clips of spoken digits: words that espeak-ng (extra `espeak`) spoke once, put together anew for each clip.

n samples at 16 kHz
"""

import dataclasses

import numpy as np

from core import audio
from core.audio import espeak
from interp.whisper.config import RATE

WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
TRAINED = ('m1', 'm2', 'm3', 'm6', 'm7', 'f1', 'f2', 'f4')
HELD_OUT = ('m4', 'f3')  # voices that are not trained on
QUIET = 1e-3  # amplitude that counts as silence at both ends of a word
PAUSE = (0.03, 0.2)  # seconds between words, and before the first
NOISE = 3e-3  # deviation of the noise under a clip, -50 dBFS


@dataclasses.dataclass(frozen=True)
class Voices:
  """Recordings float32 [n] of each digit, some for each voice: words[voice][digit][take]."""

  words: tuple[tuple[tuple[np.ndarray, ...], ...], ...]

  def clip(self, rng: np.random.Generator, *, most: int, length: int) -> tuple[np.ndarray, str]:
    """(samples [length], text) of 1 to `most` digits by one voice, with pauses; what is too long is left out."""
    voice = self.words[rng.integers(len(self.words))]
    out = rng.normal(scale=NOISE, size=length).astype(np.float32)
    at, said = 0, []
    for digit in rng.integers(len(WORDS), size=rng.integers(1, most + 1)):
      word = voice[digit][rng.integers(len(voice[digit]))]
      at += round(rng.uniform(*PAUSE) * RATE)
      if at + len(word) > length:
        break
      out[at : at + len(word)] += word
      at += len(word)
      said.append(WORDS[digit])
    return out, ' '.join(said)


def record(voices: tuple[str, ...], *, takes: int, seed: int) -> Voices:
  """Every digit by each voice, `takes` times at other speeds and pitches. Raises ImportError without espeak."""
  rng = np.random.default_rng(seed)

  def word(text: str, voice: str) -> np.ndarray:
    speed, pitch = int(rng.integers(170, 230)), int(rng.integers(35, 65))
    samples = espeak.speak(text, f'en-us+{voice}', rate=RATE, words_per_minute=speed, pitch=pitch)
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    return audio.at_loudness(samples[loud[0] : loud[-1] + 1])

  words = [[tuple(word(text, voice) for _ in range(takes)) for text in WORDS] for voice in voices]
  return Voices(tuple(map(tuple, words)))
