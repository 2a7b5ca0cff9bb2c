"""When Whisper decides, over many windows: the logit lens of each token, and the decoder on earlier encoder layers.

L decoder layers   E encoder layers and the embeddings before them   T token slots
"""

import dataclasses
import functools
from collections.abc import Sequence

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
    return np.mean([[not any(map(str.isalnum, one.text)) for one in row] for row in self.heard], 0)

  @property
  def loops(self) -> np.ndarray:
    """float [E]: the share of windows in which a layer makes the decoder repeat itself."""
    return np.mean([[one.loops for one in row] for row in self.heard], 0)

  @property
  def errors(self) -> np.ndarray:
    """float [E]: edits a word of what the last layer gives."""
    table = [[word_errors(row[-1].text, one.text) for one in row] for row in self.heard]
    edits = np.sum([[edits for edits, _ in row] for row in table], 0)
    return edits / max(sum(row[0][1] for row in table), 1)


def lenses(r: Recogniser, windows: Sequence[np.ndarray]) -> Lenses:
  """Both lenses of windows, samples [n] each at 16 kHz, decoded greedily in English without timestamps."""
  decided = np.zeros(r.config.decoder_depth + 1, int)
  sums: dict[str, np.ndarray] = {}
  tokens = 0
  heard = []
  for samples in windows:
    mel = frontend.log_mel(samples, r.config.mels, length=r.config.samples)
    states = _states(r.params, r.config, mel[None])
    keys = decoder.cross_keys(r.params.decoder, states)
    prompt = r.processor.prompt(language='en', timestamps=False)
    results = r(keys, [prompt] * len(states), [0] * len(states))
    heard.append(tuple(Outcome.of(result) for result in results))
    last = jax.tree.map(lambda x: x[-1:], keys)
    said = [*results[-1].tokens, r.processor.ids.eot][: SLOTS - len(prompt)]
    seen, mask = _lens(r, last, prompt, said)
    first = np.asarray(lens.saturation(seen))[np.asarray(mask)]
    decided += np.bincount(first, minlength=len(decided))
    for name, curve in lens.curves(seen, mask).items():
      sums[name] = sums.get(name, 0) + np.asarray(curve) * len(said)
    tokens += len(said)
  curves = {name: total / max(tokens, 1) for name, total in sums.items()}
  return Lenses(decided=decided, curves=curves, heard=tuple(heard))


@functools.partial(jax.jit, static_argnames='config')
def _states(params: model.Params, config: Config, mel: jax.Array) -> jax.Array:
  """[E, S, D]: the encoder's norm on each layer of one window [1, frames, mels]."""
  _, kept = model.encode(params, config, mel, keep=KEPT)
  return jax.lax.map(lambda x: normalise(x, params.norm, NORM_EPS), lens.encoder_states(kept))[:, 0]


def _lens(r: Recogniser, keys: tuple, prompt: list[int], said: list[int]) -> tuple[Lens, jax.Array]:
  """(the logit lens [L, 1, SLOTS] of what is said, bool [1, SLOTS] of the steps that said it)."""
  row = [*prompt, *said[:-1]]
  tokens = padding.batch([row], dtype=np.int32, length=SLOTS)
  positions = padding.positions([len(row)], SLOTS)
  final = padding.batch([[*[0] * (len(prompt) - 1), *said]], dtype=np.int32, length=SLOTS)
  steps = np.arange(SLOTS)
  mask = (steps >= len(prompt) - 1) & (steps < len(row))
  return _logit_lens(r.params.decoder, r.config, keys, tokens, positions, final), jnp.asarray(mask[None])


@functools.partial(jax.jit, static_argnames='config')
def _logit_lens(params: decoder.Params, config: Config, keys: tuple, tokens, positions, final) -> Lens:
  out = decoder.forward(params, config, tokens, keys, positions=positions, keep=('resid_out',))
  stream = jnp.asarray(out.kept['resid_out'])

  def norm(x):
    return normalise(x, params.norm, NORM_EPS)

  unembed = functools.partial(decoder.logits, params)
  return lens.logit_lens(stream, norm, unembed, top=1, final=final)
