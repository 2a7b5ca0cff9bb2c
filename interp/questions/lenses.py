"""When Whisper decides, over many windows: the logit lens of each token, and the decoder on earlier encoder layers.

L decoder layers   E encoder layers and the embeddings before them   T token slots
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import padding
from core.encoder import normalise
from interp import lens
from interp.lens import Lens
from interp.loops.clips import word_errors
from interp.loops.outcomes import Outcome
from interp.whisper import decoder, frontend, model
from interp.whisper.config import NORM_EPS, Config
from interp.whisper.decoding.window import Recogniser

KEPT = ('encoder.embed', 'encoder.resid_out')
SLOTS = 128  # of prompt and text; longer texts are cut


@dataclasses.dataclass(frozen=True)
class Lenses:
  """decided: int [L + 1], tokens that are the likeliest from each layer on, the last entry never.

  curves: float [L] by name, means over tokens: probability, rank and entropy. heard: what the decoder says of each
  encoder layer, [window][E].
  """

  decided: np.ndarray
  curves: dict[str, np.ndarray]
  heard: tuple[tuple[Outcome, ...], ...]

  @property
  def silent(self) -> np.ndarray:
    """float [E]: the share of windows in which a layer gives no word."""
    return self._share(lambda one: not any(map(str.isalnum, one.text)))

  @property
  def loops(self) -> np.ndarray:
    """float [E]: the share of windows in which a layer makes the decoder repeat itself."""
    return self._share(lambda one: one.loops)

  def _share(self, holds: Callable[[Outcome], bool]) -> np.ndarray:
    """float [E]: the share of windows in which it holds of what a layer gives."""
    table = [[holds(one) for one in row] for row in self.heard]
    return np.mean(table, 0)

  @property
  def errors(self) -> np.ndarray:
    """float [E]: edits a word of what the last layer gives."""
    edits = np.zeros(len(self.heard[0]))
    length = 0
    for row in self.heard:
      said = row[-1].text
      counts = [word_errors(said, one.text) for one in row]
      edits += [errors for errors, _ in counts]
      length += counts[0][1]
    return edits / max(length, 1)


@dataclasses.dataclass(frozen=True)
class _Window:
  """Both lenses of one window; decided, curves: as in `Lenses`, of `tokens` tokens. heard: by encoder layer [E]."""

  tokens: int
  decided: np.ndarray
  curves: dict[str, np.ndarray]
  heard: tuple[Outcome, ...]


def lenses(r: Recogniser, windows: Sequence[np.ndarray]) -> Lenses:
  """Both lenses of windows, samples [n] each at 16 kHz, decoded greedily in English without timestamps."""
  seen = [_window(r, samples) for samples in windows]
  weights = [one.tokens for one in seen]
  curves = {}
  for name in seen[0].curves:
    curves[name] = np.average([one.curves[name] for one in seen], 0, weights)
  return Lenses(
    decided=np.sum([one.decided for one in seen], 0),
    curves=curves,
    heard=tuple(one.heard for one in seen),
  )


def _window(r: Recogniser, samples: np.ndarray) -> _Window:
  mel = frontend.log_mel(samples, r.config.mels, length=r.config.samples)
  states = _states(r.params, r.config, mel[None])
  keys = decoder.cross_keys(r.params.decoder, states)
  prompt = r.processor.prompt(language='en', timestamps=False)
  layers = len(states)
  results = r(keys, [prompt] * layers, [0] * layers)
  said = [*results[-1].tokens, r.processor.ids.eot][: SLOTS - len(prompt)]
  last = jax.tree.map(lambda x: x[-1:], keys)
  seen, mask = _lens(r, last, prompt, said)
  first = np.asarray(lens.saturation(seen))[mask]
  curves = lens.curves(seen, jnp.asarray(mask))
  return _Window(
    tokens=len(said),
    decided=np.bincount(first, minlength=r.config.decoder_depth + 1),
    curves={name: np.asarray(curve) for name, curve in curves.items()},
    heard=tuple(map(Outcome.of, results)),
  )


@functools.partial(jax.jit, static_argnames='config')
def _states(params: model.Params, config: Config, mel: jax.Array) -> jax.Array:
  """[E, S, D]: the encoder's norm on each layer of one window [1, frames, mels]."""
  _, kept = model.encode(params, config, mel, keep=KEPT)
  states = lens.encoder_states(kept)[:, 0]
  return normalise(states, params.norm, NORM_EPS)


def _lens(r: Recogniser, keys: tuple, prompt: list[int], said: list[int]) -> tuple[Lens, np.ndarray]:
  """(the logit lens [L, 1, SLOTS] of what is said, bool [1, SLOTS] of the steps that said it)."""
  row = [*prompt, *said[:-1]]
  first = len(prompt) - 1
  final = [*[0] * first, *said]
  tokens, finals = padding.batch([row, final], dtype=np.int32, length=SLOTS)
  positions = padding.positions([len(row)], SLOTS)
  steps = np.arange(SLOTS)
  mask = (steps >= first) & (steps < len(row))
  seen = _logit_lens(r.params.decoder, r.config, keys, tokens[None], positions, finals[None])
  return seen, mask[None]


@functools.partial(jax.jit, static_argnames='config')
def _logit_lens(params: decoder.Params, config: Config, keys: tuple, tokens, positions, final) -> Lens:
  out = decoder.forward(params, config, tokens, keys, positions=positions, keep=('resid_out',))
  stream = out.kept['resid_out']

  def norm(x):
    return normalise(x, params.norm, NORM_EPS)

  unembed = functools.partial(decoder.logits, params)
  return lens.logit_lens(stream, norm, unembed, top=1, final=final)
