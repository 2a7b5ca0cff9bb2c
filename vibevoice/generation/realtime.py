"""Realtime: text in windows of five tokens, speech in windows of six frames, in turns; one row.

The lower stack reads text. The upper one reads its hidden states and every frame; its rows are the positive branch and
the negative one, which sees frames only. B = 2 rows   C latent   D width   N samples of a frame
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core.engine import generate
from core.past import rows as rows_lib
from core.past.cache import Cache
from vibevoice import realtime, scaling
from vibevoice.config import RealtimeConfig
from vibevoice.diffusion import Guidance, Steps, diffusion_head, solver_steps
from vibevoice.generation.host import head_for_decoding, in_float32, slots_for
from vibevoice.generation.noise import frame_noise
from vibevoice.inputs.presets import Preset
from vibevoice.tokenizer import decoder as acoustic

TEXT_WINDOW = 5  # tokens
SPEECH_WINDOW = 6  # frames
STOP = 0.5  # probability above which the speech ends
SMALLEST_CACHE = 1024  # slots; caches double when they are full


@struct.dataclass
class Voice:
  """Where a voice starts. lower: a cache of one row. upper: of two, positive and negative, with a length each.
  hidden: [2, D], the upper stack's last hidden states."""

  lower: Cache
  upper: Cache
  hidden: jax.Array


@struct.dataclass
class State:
  """Everything that a window changes. decoder: the stream of the acoustic decoder. frames: int32 [], spoken so far."""

  lower: Cache
  upper: Cache
  hidden: jax.Array
  decoder: Any
  frames: jax.Array


@functools.partial(jax.jit, static_argnames='config')
def read(params: realtime.Params, config: RealtimeConfig, state: State, tokens: jax.Array, count: jax.Array) -> State:
  """The state after the first `count` of int32 tokens [5] of text."""
  here = jnp.arange(TEXT_WINDOW)
  inside = here < count
  positions = jnp.where(inside, state.lower.length[0] + here, -1)
  low = realtime.lower(params, config, tokens[None], positions=positions[None], cache=state.lower)
  positions = jnp.where(inside, state.upper.length[0] + here, -1)
  # The negative row takes no text: to it, these tokens are padding.
  positions = jnp.stack([positions, jnp.full_like(positions, -1)])
  text = jnp.tile(low.hidden, (2, 1, 1))
  high = realtime.upper_text(params, config, text, positions=positions, cache=state.upper)
  last = high.hidden[0, count - 1]
  return state.replace(lower=low.cache, upper=high.cache, hidden=state.hidden.at[0].set(last))


@functools.partial(jax.jit, static_argnames='config')
def speak(params: realtime.Params, config: RealtimeConfig, state: State, solver: Steps, scale, seed):
  """(state, samples float32 [N], whether the speech ends after them) of one more frame."""
  noise = frame_noise(seed[None], state.frames[None], config.head.latent)
  positive = state.hidden[:1]
  negative = state.hidden[1:]
  guidance = Guidance(scale=scale, negative=negative)
  noise = noise.astype(positive.dtype)
  latents = diffusion_head(params.head, noise, positive, solver, guidance=guidance, eps=config.head.eps)
  z = scaling.to_tokenizer(params.scaling, latents[:, None])
  samples, stream = acoustic.apply(params.acoustic.decoder, config.acoustic, z, state.decoder)
  both = jnp.tile(latents[:, None], (2, 1, 1))
  positions = state.upper.length[:, None]
  out = realtime.upper_speech(params, config, both, positions=positions, cache=state.upper)
  hidden = out.hidden[:, 0]
  stop = realtime.stop_probability(params, out.hidden[:1])[0, 0] > STOP
  after = state.replace(upper=out.cache, hidden=hidden, decoder=stream, frames=state.frames + 1)
  return after, samples[0], stop


def build_voice(params: realtime.Params, config: RealtimeConfig, tokens: Any, latents: Any) -> Voice:
  """A voice from a recording: int32 tokens [T] of its transcript and scaled latents [F, C] of its frames, F >= 1.

  As in the published presets, the upper stack sees the frames first. Which encoder made their latents is not public:
  voices of one's own are research.
  """
  text = jnp.asarray(tokens, jnp.int32)[None]
  frames = jnp.asarray(latents)[None]
  slots = slots_for(text.shape[1] + frames.shape[1], config.upper.max_length, smallest=SMALLEST_CACHE)
  low = realtime.lower(params, config, text, cache=slots)
  spoken = realtime.upper_speech(params, config, frames, cache=slots)
  positive = realtime.upper_text(params, config, low.hidden, cache=spoken.cache)
  only = realtime.lower(params, config, jnp.full((1, 1), config.negative), cache=1)
  negative = realtime.upper_text(params, config, only.hidden, cache=slots)
  return Voice(
    lower=rows_lib.separate(low.cache),
    upper=rows_lib.joined(rows_lib.separate(positive.cache), rows_lib.separate(negative.cache)),
    hidden=jnp.concatenate([positive.hidden[:, -1], negative.hidden[:, -1]]),
  )


def voice_of(preset: Preset) -> Voice:
  """The voice of a published preset. The lower stack's negative stream has done its work: it is not continued."""
  branches = [preset.upper, preset.negative_upper]
  longest = max(branch.cache.capacity for branch in branches)
  positive, negative = (rows_lib.grown(rows_lib.separate(branch.cache), longest) for branch in branches)
  return Voice(
    lower=rows_lib.separate(preset.lower.cache),
    upper=rows_lib.joined(positive, negative),
    hidden=jnp.concatenate([branch.hidden[:, -1] for branch in branches]),
  )


def for_decoding(params: realtime.Params, voice: Voice) -> tuple[realtime.Params, Voice]:
  """Weights and voice as the windows want them: layers as a tuple, except on TPU."""
  params = params.replace(
    acoustic=in_float32(params.acoustic),
    lower=generate.for_decoding(params.lower),
    upper=generate.for_decoding(params.upper),
    head=head_for_decoding(params.head),
  )
  if not isinstance(params.upper.blocks, tuple):
    return params, voice
  lower = rows_lib.unstacked(voice.lower)
  upper = rows_lib.unstacked(voice.upper)
  return params, voice.replace(lower=lower, upper=upper)


class Speech:
  """A row that speaks in a voice: `read` takes text, `speak` gives frames."""

  def __init__(
    self, params: realtime.Params, config: RealtimeConfig, voice: Voice, *, scale: float, steps: int, seed: int
  ):
    self._params, voice = for_decoding(params, voice)
    self._config = config
    self._options = (solver_steps(self._params.head, steps), jnp.float32(scale), jnp.uint32(seed))
    self.state = State(
      lower=voice.lower,
      upper=voice.upper,
      hidden=voice.hidden,
      decoder=acoustic.initial(params.acoustic.decoder, config.acoustic, 1),
      frames=jnp.int32(0),
    )
    self._lower = int(voice.lower.length[0])
    self._upper = int(voice.upper.length.max())

  @property
  def is_full(self) -> bool:
    """Whether the context holds no further frame."""
    return self._upper >= self._config.upper.max_length

  def read(self, tokens: Sequence[int]) -> None:
    """Takes at most five tokens of text. Raises ValueError if the context has no place for them."""
    padded = np.zeros(TEXT_WINDOW, np.int32)
    padded[: len(tokens)] = tokens
    self._lower += len(tokens)
    self._upper += len(tokens)
    if max(self._lower, self._upper) > self._config.upper.max_length:
      raise ValueError(f'text and speech are longer than the context of {self._config.upper.max_length} positions')
    self._grow()
    self.state = read(self._params, self._config, self.state, padded, jnp.int32(len(tokens)))

  def speak(self) -> tuple[np.ndarray, bool]:
    """(samples float32 [N] of one more frame, whether the stop classifier ends the speech after it)."""
    self._upper += 1
    self._grow()
    self.state, samples, stop = speak(self._params, self._config, self.state, *self._options)
    return np.asarray(samples), bool(stop)

  def _grow(self) -> None:
    """Makes the caches hold what is about to be written."""
    for name, filled in (('lower', self._lower), ('upper', self._upper)):
      cache = getattr(self.state, name)
      if filled > cache.capacity:
        slots = slots_for(filled, self._config.upper.max_length, smallest=max(2 * cache.capacity, SMALLEST_CACHE))
        self.state = self.state.replace(**{name: rows_lib.grown(cache, slots)})


def speech(
  params: realtime.Params,
  config: RealtimeConfig,
  voice: Voice,
  tokens: Iterable[int],
  *,
  scale: float = 1.5,
  steps: int = 5,
  seed: int = 0,
) -> Iterator[np.ndarray]:
  """Frames of speech float32 [N] in a voice, each when it is made.

  tokens: of the text; they are taken five at a time as speech goes, so they may still arrive. The speech ends when the
  stop classifier says so, or when the context is full. Raises ValueError if there is no text, or too much.
  """
  row = Speech(params, config, voice, scale=scale, steps=steps, seed=seed)
  tokens = iter(tokens)
  text = list(itertools.islice(tokens, TEXT_WINDOW))
  if not text:
    raise ValueError('no text to speak')
  while not row.is_full:
    if text:
      row.read(text)
    for _ in range(SPEECH_WINDOW):
      if row.is_full:
        return
      samples, stop = row.speak()
      yield samples
      if stop:
        return
    text = list(itertools.islice(tokens, TEXT_WINDOW))
