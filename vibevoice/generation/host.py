"""The host's side of generation: it starts rows, grows their caches, and reads frames as they are made.

B rows   N samples of a frame
"""

import functools
import operator
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.engine import generate
from core.engine.layout import for_few_rows
from core.engine.sampling import Sampling
from core.past import rows as rows_lib
from kernels.head import arguments
from vibevoice import model
from vibevoice.config import Config
from vibevoice.diffusion import solver_steps
from vibevoice.generation import prefill
from vibevoice.generation.state import Frame, Given, Settings, State
from vibevoice.generation.step import frame_step
from vibevoice.inputs.processor import Inputs

SMALLEST_CACHE = 4096  # slots; caches double when they are full
AT_ONCE = 16  # frames of one program, unless they are streamed


def in_float32(params: Any) -> Any:
  """Weights of a tokenizer in the dtype that it computes in, so that not every step converts them."""
  return jax.tree.map(lambda w: w if w.dtype == jnp.float32 else w.astype(jnp.float32), params)


def for_decoding(params: model.Params) -> model.Params:
  """The weights as the steps want them; do it once, after loading."""
  return params.replace(
    acoustic=in_float32(params.acoustic),
    semantic=in_float32(params.semantic),
    language=generate.for_decoding(params.language),
    head=head_for_decoding(params.head),
  )


def head_for_decoding(head: Any) -> Any:
  """The diffusion head's weights as a solver of few rows wants them."""
  return for_few_rows(head, arguments.streamed)


@functools.partial(jax.jit, static_argnames=('config', 'buffer'), donate_argnames='state')
def _advance(params, config: Config, state: State, settings: Settings, count, *, buffer: int):
  """(state, frames [buffer, B, ...], how many, whether all rows are finished) after at most `count` steps."""
  made = jax.eval_shape(lambda s: frame_step(params, config, s, settings)[1], state)
  frames = jax.tree.map(lambda x: jnp.zeros((buffer, *x.shape), x.dtype), made)

  def unfinished(carry):
    state, _, done = carry
    return (done < count) & ~state.finished.all()

  def body(carry):
    state, frames, done = carry
    state, frame = frame_step(params, config, state, settings)
    frames = jax.tree.map(lambda made, x: made.at[done].set(x), frames, frame)
    return state, frames, done + 1

  state, frames, done = jax.lax.while_loop(unfinished, body, (state, frames, jnp.int32(0)))
  return state, frames, done, state.finished.all()


@functools.partial(jax.jit, static_argnames='slots')
def _grow(state: State, *, slots: int) -> State:
  return state.replace(cache=rows_lib.grown(state.cache, slots))


def slots_for(tokens: int, longest: int, smallest: int) -> int:
  """Slots of the smallest cache that holds `tokens`: `smallest` doubled as needed, at most the context `longest`."""
  slots = smallest
  while slots < tokens:
    slots *= 2
  return max(min(slots, longest), tokens)


class Generation:
  """Rows that speak. `state` is that after all the steps started so far.

  Raises ValueError, from `frames`, when a row's logits become NaN.
  """

  def __init__(self, params: model.Params, config: Config, state: State, settings: Settings, *, prompts: np.ndarray):
    self.state = state
    self._params = params
    self._config = config
    self._settings = settings
    self._filled = int(np.max(prompts))  # slots of the longest row, at most: rows that wait take none
    self._last = int(np.max(prompts + settings.limit))
    self._warming: threading.Thread | None = None

  def frames(self, *, at_once: int = 1) -> Iterator[Frame]:
    """Each step's frame in host memory, as numpy arrays; `at_once` steps run between two looks of the host.

    The following steps are already running while frames are read; they do nothing once every row is finished.
    """
    running = self._start(at_once)
    while running is not None:
      following = self._start(at_once)
      frames, count, finished = jax.tree.map(np.asarray, running)
      for i in range(int(count)):
        yield jax.tree.map(operator.itemgetter(i), frames)
      running = None if finished else following
    self._check()

  def _start(self, count: int) -> tuple:
    """(frames, how many, whether all rows are finished) of at most `count` more steps, not awaited."""
    needed = min(self._filled + count, self._last)
    if needed > self.state.cache.capacity:
      if self._warming is not None:
        self._warming.join()
        self._warming = None
      self.state = _grow(self.state, slots=self._following(needed))
    self._filled = needed
    self._warm()
    self.state, *made = _advance(
      self._params, self._config, self.state, self._settings, jnp.int32(count), buffer=AT_ONCE
    )
    return tuple(made)

  def _following(self, tokens: int) -> int:
    """Slots of the next larger cache that holds `tokens`."""
    return slots_for(tokens, self._config.language.max_length, smallest=2 * self.state.cache.capacity)

  def _warm(self) -> None:
    """Compiles the program of the next cache in the background when this one is three quarters full.

    Running it for 0 steps compiles the very entry that growing will look up; the state it is given is a copy.
    """
    capacity = self.state.cache.capacity
    if self._warming is not None or self._last <= capacity or 4 * self._filled < 3 * capacity:
      return
    grown = _grow(self.state, slots=self._following(capacity + 1))
    arguments = (self._params, self._config, grown, self._settings, jnp.int32(0))
    self._warming = threading.Thread(target=_advance, args=arguments, kwargs={'buffer': AT_ONCE}, daemon=True)
    self._warming.start()

  def _check(self) -> None:
    failed = np.flatnonzero(self.state.failed)
    if failed.size:
      row = int(failed[0])
      raise ValueError(f'row {row}: the logits after {int(self.state.steps[row])} tokens are NaN or infinite')


def begin(
  params: model.Params,
  config: Config,
  inputs: Sequence[Inputs],
  *,
  steps: int = 10,
  scale: float = 1.3,
  seed: int = 0,
  temperature: float = 0.0,
  limit: int | None = None,
  sample_voices: bool = True,
  given: Given | None = None,
  smallest_cache: int = SMALLEST_CACHE,
) -> Generation:
  """The generation of prompts, a row each.

  Args:
    steps: of the solver, for each frame.
    scale: of classifier-free guidance; 1 computes no negative branch.
    seed: row b speaks with the noise of `seed + b`, in any batch.
    temperature: of the choice between the tokens of speech; 0 takes the likeliest.
    limit: tokens a row may speak, at most; by default what the context holds.
    sample_voices: as in `prefill.voice_latents`.

  Raises:
    ValueError: no prompt, a prompt that fills the context (by how much), or an option out of range.
  """
  if not inputs:
    raise ValueError('no prompts to speak')
  params = for_decoding(params)
  rows = len(inputs)
  prompts = np.array([len(x.tokens) - 1 for x in inputs], np.int32)  # START belongs to the first step
  limits = _limits(config, prompts, limit)
  settings = Settings(
    solver=solver_steps(params.head, steps),
    sampling=Sampling.of(rows, temperature=temperature, seed=seed),
    limit=limits,
    scale=None if scale == 1 else np.full(rows, scale, np.float32),
    given=given or Given(),
  )
  latents = [
    prefill.voice_latents(params, config, x.voices, seed=seed + row, sample=sample_voices)
    for row, x in enumerate(inputs)
  ]
  slots = slots_for(int(prompts.max()) + 1, config.language.max_length, smallest=smallest_cache)
  state = prefill.prefill(params, config, inputs, latents, slots=slots, guided=settings.scale is not None)
  return Generation(params, config, state, settings, prompts=prompts)


def _limits(config: Config, prompts: np.ndarray, limit: int | None) -> np.ndarray:
  """int32 [B]: tokens that each row may speak."""
  free = config.language.max_length - 1 - prompts
  if free.min() < 1:
    row = int(free.argmin())
    raise ValueError(
      f'prompt {row} of {int(prompts[row]) + 1} tokens is {1 - int(free[row])} too long: '
      f'the context is {config.language.max_length} with the speech'
    )
  if limit is None:
    return free
  if limit < 1:
    raise ValueError(f'limit={limit}: expected at least 1 token')
  return np.minimum(free, limit)
