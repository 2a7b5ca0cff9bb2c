"""Contextual bias: the model writes the word that a sentence makes likely, not the one that is spoken.

What the encoder or the decoder adds in a branch is blended with what it adds for white noise; an error is recovered if
the spoken word is written then (arXiv 2508.15882, section 5). In the encoder the reference is of the same frame; in the
decoder, whose text differs, the mean over the tokens that the model says of the noise.

C components   L layers   S encoder positions   D width
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from core.audio import espeak
from interp import patch
from interp.loops import values
from interp.loops.ablation import WHOLE, Component, without
from interp.loops.clips import Clip, words
from interp.questions.pairs import PAIRS
from interp.whisper import decoder, frontend, model
from interp.whisper.config import RATE
from interp.whisper.decoding.window import Recogniser
from interp.whisper.patching import BRANCHES, FRAME_SITES, EncodedStates

VOICES = ('en-us+m3', 'en-us+f2', 'en-gb-x-rp+m1')
SHARES = (0.5, 1.0)  # of the reference in a blend
NOISE = 0.1  # deviation of the white noise
Verdict = Literal['right', 'biased', 'other']


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Samples [n] at 16 kHz of a sentence in which `spoken` stands where `expected` is likely."""

  samples: np.ndarray
  expected: str
  spoken: str

  def verdict(self, text: str) -> Verdict:
    """Whether a transcript has the spoken word, the expected one, or another."""
    written = words(text)
    if self.spoken in written:
      return 'right'
    if self.expected in written:
      return 'biased'
    return 'other'


@dataclasses.dataclass(frozen=True)
class Bias:
  """What was found.

  verdicts: of every sentence. components: of encoder and decoder, C. recovered: bool [biased sentences, shares, C],
  whether the spoken word is written. kept: the same of sentences that were right before, at most as many.
  """

  verdicts: tuple[Verdict, ...]
  components: tuple[Component, ...]
  recovered: np.ndarray
  kept: np.ndarray

  def any(self, side: Literal['encoder', 'decoder', 'either']) -> np.ndarray:
    """bool [biased sentences]: whether some component of a side recovers the error, at some share."""
    is_encoder = np.array([part.site in BRANCHES for part in self.components])
    chosen = {'encoder': is_encoder, 'decoder': ~is_encoder, 'either': is_encoder | ~is_encoder}[side]
    return self.recovered[:, :, chosen].any((1, 2))


def sentences() -> Iterator[Sentence]:
  """Every sentence by every voice. Raises ImportError without espeak."""
  for sentence, expected, spoken in PAIRS:
    for voice in VOICES:
      samples = espeak.speak(sentence.format(spoken), voice, rate=RATE)
      yield Sentence(samples, expected, spoken)


def white_noise(length: int) -> np.ndarray:
  """The reference, samples [length]."""
  return NOISE * np.random.default_rng(0).standard_normal(length).astype(np.float32)


def bias(r: Recogniser, spoken: Sequence[Sentence]) -> Bias:
  """The study of sentences, decoded greedily in English without timestamps."""
  study = _Study(r)
  verdicts = tuple(one.verdict(study.text(one)) for one in spoken)
  biased = [one for one, verdict in zip(spoken, verdicts) if verdict == 'biased']
  right = [one for one, verdict in zip(spoken, verdicts) if verdict == 'right']
  return Bias(
    verdicts=verdicts,
    components=study.components,
    recovered=study.right_without(biased),
    kept=study.right_without(right[: len(biased)]),
  )


class _Study:
  """A model, and what it adds in each branch for white noise."""

  def __init__(self, r: Recogniser):
    self._r = r
    c = r.config
    self._prompt = r.processor.prompt(language='en', timestamps=False)
    noise = white_noise(c.samples)
    self._encoder_values = _kept(r.params, c, self._mel(noise), BRANCHES)
    self._decoder_values = values.means_of(r, [Clip('noise', 0, 'unchanged', noise)])
    self._encoder = tuple(Component(site, layer) for site in BRANCHES for layer in range(c.encoder_depth))
    self._decoder = tuple(Component(site, layer) for site in WHOLE for layer in range(c.decoder_depth))

  @property
  def components(self) -> tuple[Component, ...]:
    return (*self._encoder, *self._decoder)

  def text(self, sentence: Sentence) -> str:
    """What the model says."""
    (text,) = self._texts(self._r, self._r.keys(self._mel(sentence.samples)), 1)
    return text

  def right_without(self, chosen: Sequence[Sentence]) -> np.ndarray:
    """bool [sentences, shares, C]: whether the spoken word is written when a component is blended with noise."""
    shape = (len(chosen), len(SHARES), len(self.components))
    table = [[self._row(one, share) for share in SHARES] for one in chosen]
    return np.asarray(table, bool).reshape(shape)

  def _row(self, sentence: Sentence, share: float) -> list[bool]:
    mel = self._mel(sentence.samples)
    texts = [*self._encoder_texts(mel, share), *self._decoder_texts(mel, share)]
    return [sentence.verdict(text) == 'right' for text in texts]

  def _encoder_texts(self, mel: np.ndarray, share: float) -> list[str]:
    r = self._r
    axes = patch.Axes(BRANCHES, tuple(range(r.config.encoder_depth)))
    kept = _kept(r.params, r.config, mel, FRAME_SITES)
    forward = EncodedStates(r.config)
    grid = patch.sweep(forward, axes, self._encoder_values, r.params, kept, alpha=share, block=1, resume=True)
    states = grid.reshape(len(self._encoder), *grid.shape[-2:])
    return self._texts(r, decoder.cross_keys(r.params.decoder, jnp.asarray(states)), len(states))

  def _decoder_texts(self, mel: np.ndarray, share: float) -> list[str]:
    r = self._r
    sets = [(part,) for part in self._decoder]
    edit = without(r.config, sets, self._decoder_values, share=share)
    return self._texts(r.edited(edit), r.keys(mel), len(sets))

  def _texts(self, r: Recogniser, keys: tuple, rows: int) -> list[str]:
    return [result.text for result in r(keys, [self._prompt] * rows, [0] * rows)]

  def _mel(self, samples: np.ndarray) -> np.ndarray:
    c = self._r.config
    return frontend.log_mel(samples, c.mels, length=c.samples)[None]


@functools.partial(jax.jit, static_argnames=('config', 'keep'))
def _kept(params: model.Params, config, mel: jax.Array, keep: tuple[str, ...]) -> Mapping[str, jax.Array]:
  return model.encode(params, config, mel, keep=keep)[1]
