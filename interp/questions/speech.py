"""Synthetic speech with known voice, accent, language and noise, by espeak-ng (extra `espeak`).

A group is a voice, or a pair of them, with sentences of its own: held-out groups are new voices that say new sentences.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from core.audio import espeak
from interp.questions.sentences import BY_LANGUAGE, ENGLISH
from interp.whisper.config import RATE

VOICES = tuple(f'{sex}{number}' for number in range(1, 6) for sex in 'mf')  # of men and women
ACCENTS = ('en-us', 'en', 'en-gb-scotland', 'en-gb-x-rp', 'en-029')  # 'en' is British
EACH = 3  # sentences of a voice
POOLS = 5  # of sentences in several languages, each said by one man and one woman
SNR = 25.0  # dB


@dataclasses.dataclass(frozen=True)
class Speech:
  """Clips: samples [n] at 16 kHz each, the group of each, and by question a label of each."""

  clips: tuple[np.ndarray, ...]
  groups: tuple[str, ...]
  labels: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class _Clip:
  samples: np.ndarray
  group: str
  label: str


def speech(seed: int = 0) -> Iterator[Speech]:
  """Clips for voice (of a woman or a man) and accent, for noise and for language. Raises ImportError without espeak."""
  spoken = list(_accents())
  sexes = tuple(clip.group[0] for clip in spoken)
  accents = _labelled('accent', spoken)
  yield dataclasses.replace(accents, labels=accents.labels | {'voice': sexes})
  plain = [clip for clip in spoken if clip.label == ACCENTS[0]]
  rng = np.random.default_rng(seed)
  noisy = list(_noise(plain, rng))
  yield _labelled('noise', noisy)
  yield _labelled('language', list(_languages()))


def _labelled(question: str, clips: Sequence[_Clip]) -> Speech:
  return Speech(
    clips=tuple(clip.samples for clip in clips),
    groups=tuple(clip.group for clip in clips),
    labels={question: tuple(clip.label for clip in clips)},
  )


def _accents() -> Iterator[_Clip]:
  """Every voice with every accent; the sentences of a voice are its own."""
  for i, voice in enumerate(VOICES):
    for sentence in ENGLISH[i * EACH : (i + 1) * EACH]:
      for accent in ACCENTS:
        samples = espeak.speak(sentence, f'{accent}+{voice}', rate=RATE)
        yield _Clip(samples, voice, accent)


def _noise(plain: list[_Clip], rng: np.random.Generator) -> Iterator[_Clip]:
  """Each clip without noise and in three kinds of noise."""
  for clip in plain:
    others = [other.samples for other in plain if other.group != clip.group]
    for kind in ('none', 'white', 'pink', 'babble'):
      samples = _noisy(clip.samples, kind, others, rng)
      yield _Clip(samples, clip.group, kind)


def _noisy(samples: np.ndarray, kind: str, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
  """The clip with noise 25 dB below it; babble is a sum of `others`."""
  if kind == 'none':
    return samples
  if kind == 'babble':
    chosen = rng.choice(len(others), 6, replace=False)
    voices = [np.resize(others[i], len(samples)) for i in chosen]
    noise = np.sum(voices, 0)
  else:
    white = rng.standard_normal(len(samples))
    noise = _coloured(white, pink=kind == 'pink')
  ratio = np.mean(samples**2) / np.mean(noise**2)
  gain = np.sqrt(ratio) * 10 ** (-SNR / 20)
  return (samples + gain * noise).astype(np.float32)


def _coloured(white: np.ndarray, *, pink: bool) -> np.ndarray:
  """Noise whose power falls by 3 dB an octave if it is pink."""
  if not pink:
    return white
  spectrum = np.fft.rfft(white)
  frequency = np.arange(len(spectrum))
  frequency = np.maximum(frequency, 1)
  spectrum /= np.sqrt(frequency)
  return np.fft.irfft(spectrum, len(white))


def _languages() -> Iterator[_Clip]:
  """Each pool of sentences in every language, by its own man and woman."""
  for language, sentences in BY_LANGUAGE.items():
    for i, sentence in enumerate(sentences):
      pool = i % POOLS
      first = 2 * pool
      for voice in VOICES[first : first + 2]:
        samples = espeak.speak(sentence, f'{language}+{voice}', rate=RATE)
        yield _Clip(samples, str(pool), language)
