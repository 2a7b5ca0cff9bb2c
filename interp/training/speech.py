"""Clips of spoken digits: words that espeak-ng (extra `espeak`) spoke once, combined at random for each clip.

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

Takes = tuple[np.ndarray, ...]  # recordings of one word


@dataclasses.dataclass(frozen=True)
class Voices:
  """Recordings float32 [n] of each digit, some for each voice: words[voice][digit][take]."""

  words: tuple[tuple[Takes, ...], ...]

  def clip(self, rng: np.random.Generator, *, most: int, length: int) -> tuple[np.ndarray, str]:
    """(samples [length], text) of 1 to `most` digits by one voice, with pauses; what is too long is left out."""
    voice = self.words[rng.integers(len(self.words))]
    noise = rng.normal(scale=NOISE, size=length)
    out = noise.astype(np.float32)
    count = rng.integers(1, most + 1)
    at = 0
    said = []
    for digit in rng.integers(len(WORDS), size=count):
      takes = voice[digit]
      word = takes[rng.integers(len(takes))]
      at += round(rng.uniform(*PAUSE) * RATE)
      end = at + len(word)
      if end > length:
        break
      out[at:end] += word
      at = end
      said.append(WORDS[digit])
    return out, ' '.join(said)


def record(voices: tuple[str, ...], *, takes: int, seed: int) -> Voices:
  """Every digit by each voice, `takes` times at other speeds and pitches. Raises ImportError without espeak."""
  rng = np.random.default_rng(seed)
  by_voice = []
  for voice in voices:
    words = [tuple(_word(text, voice, rng) for _ in range(takes)) for text in WORDS]
    by_voice.append(tuple(words))
  return Voices(tuple(by_voice))


def _word(text: str, voice: str, rng: np.random.Generator) -> np.ndarray:
  """A word without the silence around it, at a random speed and pitch."""
  speed = int(rng.integers(170, 230))
  pitch = int(rng.integers(35, 65))
  samples = espeak.speak(text, f'en-us+{voice}', rate=RATE, words_per_minute=speed, pitch=pitch)
  (loud,) = np.nonzero(np.abs(samples) > QUIET)
  first = loud[0]
  last = loud[-1]
  return audio.at_loudness(samples[first : last + 1])
