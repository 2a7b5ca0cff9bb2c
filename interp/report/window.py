"""What a Whisper model does with one window of speech, layer by layer, as arrays.

L decoder layers   T tokens of the answer, its end included   S encoder positions, 50 a second
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.encoder import normalise
from interp import lens
from interp.lens import Lens
from interp.whisper import alignment, decoder, frontend, model
from interp.whisper.config import HOP, NORM_EPS, RATE, Config
from interp.whisper.decoding.window import Recogniser, Result
from interp.whisper.options import Options
from interp.whisper.processor import TIMESTAMPS_A_SECOND, Processor

OPTIONS = Options(timestamps=False, previous=False, temperatures=(0.0,))
KEPT = ('encoder.embed', 'encoder.resid_out')


@dataclasses.dataclass(frozen=True)
class Study:
  """Numpy arrays throughout.

  samples: float32, 16 kHz, of the window. answer: what the model says. pieces: text of each of T tokens. times: float
  [T + 1], seconds at which each token begins and the last one ends. lens: of [L, T], what each decoder layer would say.
  likeliest: [L][T], the text of its likeliest token. attention: float [T, S], cross-attention of the alignment heads.
  by_encoder_layer: what the decoder makes of each encoder layer, from the embeddings on.
  """

  samples: np.ndarray
  answer: Result
  pieces: tuple[str, ...]
  times: np.ndarray
  lens: Lens
  likeliest: tuple[tuple[str, ...], ...]
  attention: np.ndarray
  by_encoder_layer: tuple[Result, ...]


def study(
  params: model.Params, config: Config, processor: Processor, samples: np.ndarray, *, language: str | None = None
) -> Study:
  """The study of the first 30 seconds of `samples`, float32 at 16 kHz, decoded greedily without timestamps.

  language: as in `Processor.prompt`; by default the most probable one. Raises ValueError for samples without any.
  """
  window = config.frames * HOP
  samples = np.asarray(samples, np.float32)[:window]
  if not len(samples):
    raise ValueError('a recording without samples has nothing to study')
  mel = frontend.log_mel(samples, config.mels, length=window)
  recogniser = Recogniser(params, config, processor, OPTIONS)
  encoded, states = _encode(params, config, jnp.asarray(mel)[None])
  weights = recogniser.params.decoder
  keys = decoder.cross_keys(weights, encoded)
  if language is None:
    (language,) = recogniser.language(keys)
  prompt = processor.prompt(language=language, timestamps=False)
  (answer,) = recogniser(keys, [prompt], [0])
  said = [*answer.tokens, processor.ids.eot]
  lens = _lens(weights, config, keys, prompt, said)
  seen = jax.tree.map(lambda x: np.asarray(x)[:, 0], lens)
  heads = processor.alignment_heads or alignment.default_heads(config)
  attention = _attention(weights, config, keys, prompt, said, heads, len(samples))
  return Study(
    samples=samples,
    answer=answer,
    pieces=tuple(_text(processor, token) for token in said),
    times=_times(attention, len(samples) / RATE),
    lens=seen,
    likeliest=tuple(tuple(_text(processor, token) for token in row) for row in seen.top[:, :, 0]),
    attention=attention,
    by_encoder_layer=tuple(_decoded(recogniser, state, prompt) for state in states),
  )


@functools.partial(jax.jit, static_argnames='config')
def _encode(params: model.Params, config: Config, mel: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(states after the final norm [1, S, D], each layer's so normalised [1 + encoder layers, 1, S, D])."""
  encoded, kept = model.encode(params, config, mel, keep=KEPT)
  normal = lambda x: normalise(x, params.norm, NORM_EPS)
  return encoded, jax.lax.map(normal, lens.encoder_states(kept))


def _decoded(recogniser: Recogniser, state: jax.Array, prompt: list[int]) -> Result:
  """What the decoder says of encoder states [1, S, D]."""
  (result,) = recogniser(decoder.cross_keys(recogniser.params.decoder, state), [prompt], [0])
  return result


def _lens(params: decoder.Params, config: Config, keys: tuple, prompt: list[int], said: list[int]) -> Lens:
  """The logit lens of the tokens `said` after the prompt, of [L, 1, T]."""
  row = jnp.asarray([[*prompt, *said[:-1]]], jnp.int32)
  out = decoder.forward(params, config, row, keys, keep=('resid_out',))
  stream = jnp.asarray(out.kept['resid_out'])[:, :, len(prompt) - 1 :]
  norm = lambda x: normalise(x, params.norm, NORM_EPS)
  unembed = functools.partial(decoder.logits, params)
  return lens.logit_lens(stream, norm, unembed, final=jnp.asarray([said], jnp.int32))


def _attention(params, config: Config, keys, prompt, said, heads, samples: int) -> np.ndarray:
  """Cross-attention [T, S] of the steps that predicted each token, within the recording."""
  read = [*prompt, *said[:-1]]
  scores, _ = alignment.attention(params, config, keys, read, heads)
  positions = max(-(-samples * TIMESTAMPS_A_SECOND // RATE), 1)
  weights = alignment.softmax(scores[:, len(prompt) - 1 :, :positions])
  return alignment.sharpness(weights)


def _times(attention: np.ndarray, end: float) -> np.ndarray:
  return np.append(alignment.starts(attention) / TIMESTAMPS_A_SECOND, end)


def _text(processor: Processor, token: int) -> str:
  """The text of a token; of a timestamp its time, of another special token its name."""
  if token >= processor.ids.first_timestamp:
    return f'<{processor.seconds(token):.2f}>'
  return processor.text([token]) or processor.tokenizer.convert_ids_to_tokens(int(token))
