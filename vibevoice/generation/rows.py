"""A fixed number of rows on the device that start and end independently, as a server needs them.

Two programs for each size of the caches do everything: one reads a piece of a prompt into a row, the other is a step of
all rows. Both are compiled before a cache of that size is needed.

R rows   T tokens of a piece   C latent   D width
"""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np

from core import conv, decoder, padding
from core.engine.sampling import Sampling
from core.past import rows as rows_lib
from core.past.cache import Cache
from vibevoice import model
from vibevoice.config import Config
from vibevoice.diffusion import solver_steps
from vibevoice.generation.host import SMALLEST_CACHE, for_decoding, slots_for
from vibevoice.generation.prefill import empty
from vibevoice.generation.state import Frame, Settings, State
from vibevoice.generation.step import frame_step
from vibevoice.tokenizer import decoder as acoustic
from vibevoice.tokenizer import encoder as semantic

PIECE = 256  # tokens of a prompt that are read between two steps


@functools.partial(jax.jit, static_argnames=('config', 'rows', 'slots'))
def initial(params: model.Params, config: Config, *, rows: int, slots: int) -> State:
  """Rows that are all finished; each has a row of the negative branch too. Compiled, so that no two arrays of the state
  share a buffer: it is donated."""
  zero = jnp.zeros(rows, jnp.int32)
  no = jnp.zeros(rows, bool)
  embedding = _start_embedding(params, config, rows)
  return State(
    cache=empty(params, config, 2 * rows, slots, embedding.dtype),
    embedding=embedding,
    decoder=acoustic.initial(params.acoustic.decoder, config.acoustic, rows),
    encoder=semantic.initial(params.semantic.encoder, config.semantic, rows),
    frames=zero,
    steps=zero,
    finished=~no,
    truncated=no,
    failed=no,
  )


def _start_embedding(params: model.Params, config: Config, rows: int) -> jax.Array:
  return decoder.embed(params.language, jnp.full((rows, 1), config.start))[:, 0]


@functools.partial(jax.jit, static_argnames='config', donate_argnames='cache')
def _read(params, config: Config, cache: Cache, row, tokens, count, latents, first) -> Cache:
  """The cache after `count` of int32 `tokens` [T] in one row, whose slots take `latents` [T, C] in order.

  first: whether the prompt begins with them, so that both branches of the row are emptied before.
  """
  every = jnp.arange(cache.length.shape[0])
  rows = every.shape[0] // 2
  cache = rows_lib.reset(cache, first & (every % rows == row))
  one = rows_lib.take(cache, row)
  offset = jnp.arange(tokens.shape[0])
  positions = jnp.where(offset < count, one.length[0] + offset, -1)
  x = model.embed(params, config, tokens[None], model.Frames(latents[None]))
  out = decoder.forward(params.language, config.language, x, positions=positions[None], cache=one)
  return rows_lib.put(cache, row, out.cache)


@functools.partial(jax.jit, static_argnames='config', donate_argnames='state')
def _step(params, config: Config, state: State, settings: Settings, enter, leave) -> tuple[State, Frame]:
  """`frame_step` after rows bool [R] left and others entered, whose prompts are read but for START."""
  start = _start_embedding(params, config, enter.shape[0])
  entered = state.replace(
    embedding=jnp.where(enter[:, None], start, state.embedding),
    decoder=conv.reset(enter, state.decoder),
    encoder=conv.reset(enter, state.encoder),
    frames=jnp.where(enter, 0, state.frames),
    steps=jnp.where(enter, 0, state.steps),
    finished=(state.finished | leave) & ~enter,
    truncated=state.truncated & ~enter,
    failed=state.failed & ~enter,
  )
  return frame_step(params, config, entered, settings)


@functools.partial(jax.jit, static_argnames='slots')
def _grown(cache: Cache, *, slots: int) -> Cache:
  return rows_lib.grown(cache, slots)


class Rows:
  """R rows that read prompts and speak. Not safe to call from several threads at once.

  capacity: slots of the caches now. longest: slots that a row may take, the context.
  """

  def __init__(
    self, params: model.Params, config: Config, count: int, *, steps: int = 10, smallest_cache: int = SMALLEST_CACHE
  ):
    """Compiles the programs of the smallest caches. Raises ValueError for `steps` out of range."""
    self.count = count
    self.longest = config.language.max_length
    self.piece = min(PIECE, self.longest)
    self._params = for_decoding(params)
    self._config = config
    self._settings = Settings(
      solver=solver_steps(self._params.head, steps),
      sampling=Sampling.of(count),
      limit=np.ones(count, np.int32),
      scale=np.ones(count, np.float32),
    )
    self._seeds = np.zeros(count, np.uint32)
    self._compiling = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='compile')
    self._programs: dict[int, concurrent.futures.Future] = {}
    self.smallest = slots_for(self.piece, self.longest, smallest=smallest_cache)
    self._initial = functools.partial(initial, self._params, config, rows=count)
    self.restart()
    self._program()

  @property
  def capacity(self) -> int:
    """Slots of the caches."""
    return self._state.cache.capacity

  def restart(self) -> None:
    """All rows empty, in caches of the smallest size."""
    self._state = None  # frees the old caches first
    self._state = self._initial(slots=self.smallest)
    self._prepare(self.smallest)

  def reserve(self, tokens: int) -> None:
    """Caches of at least `tokens` slots; at three quarters the programs of the next size begin to be compiled."""
    while tokens > self.capacity:
      following = self._following()
      self._prepare(following)
      self._state = self._state.replace(cache=_grown(self._state.cache, slots=following))
    if 4 * tokens >= 3 * self.capacity and self.capacity < self.longest:
      self._prepare(self._following())

  def settle(self, row: int, *, scale: float, seed: int, limit: int) -> None:
    """How a row speaks from its next start on."""
    settings = self._settings
    settings.scale[row] = scale
    settings.limit[row] = limit
    self._seeds[row] = seed % 2**31

  def read(self, row: int, tokens: np.ndarray, latents: np.ndarray, *, first: bool) -> None:
    """Reads at most `piece` tokens int32 [n] of a prompt; latents float32 [F, C] are those of their slots."""
    read, _ = self._program()
    cache = read(
      self._params,
      self._state.cache,
      np.int32(row),
      padding.pad(np.asarray(tokens, np.int32), self.piece),
      np.int32(len(tokens)),
      padding.pad(np.asarray(latents, np.float32), self.piece),
      np.bool_(first),
    )
    self._state = self._state.replace(cache=cache)

  def step(self, enter: np.ndarray, leave: np.ndarray) -> tuple[Frame, State]:
    """(frame, what became of the rows) after one step, in host memory; rows bool [R] leave and enter before.

    Of the state only `finished`, `truncated` and `failed` are given.
    """
    _, step = self._program()
    sampling = self._settings.sampling.replace(seed=self._seeds)
    settings = self._settings.replace(sampling=sampling)
    self._state, frame = step(self._params, self._state, settings, enter, leave)
    state = self._state
    ended = State(*[None] * 6, state.finished, state.truncated, state.failed)
    return jax.tree.map(np.asarray, (frame, ended))

  def _following(self) -> int:
    return slots_for(self.capacity + 1, self.longest, smallest=2 * self.capacity)

  def _prepare(self, slots: int) -> None:
    """Starts to compile the programs of caches of `slots`, unless that has begun."""
    if slots not in self._programs:
      self._programs[slots] = self._compiling.submit(self._compile, slots)

  def _program(self) -> tuple:
    """(read, step) for the caches of now; waits until they are compiled."""
    return self._programs[self.capacity].result()

  def _compile(self, slots: int) -> tuple:
    """The two programs from shapes alone: no cache of that size is made."""
    params = self._params
    config = self._config
    state = jax.eval_shape(functools.partial(self._initial, slots=slots))
    tokens = np.zeros(self.piece, np.int32)
    latents = np.zeros((self.piece, config.acoustic.latent), np.float32)
    zero = np.int32(0)
    no = np.zeros(self.count, bool)
    read = _read.lower(params, config, state.cache, zero, tokens, zero, latents, np.bool_(False))
    step = _step.lower(params, config, state, self._settings, no, no)
    return read.compile(), step.compile()
