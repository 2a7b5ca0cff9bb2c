"""The simple generate loop: one compiled program for the prompt, one for all new tokens.

B rows   T prompt slots   V vocabulary   N new-token slots   D width

A step is a function (cache, token [B, 1], position [B, 1]) -> (logits float32 [B, V], cache); `position` is -1 for a
row that is done. A hook is a function (logits, state) -> logits that rewrites what is chosen from. Both are pytrees
(`flax.struct` dataclasses with `__call__`, or plain functions): their arrays are traced, the rest is static, so equal
steps over new weights share a program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.engine.layout import as_streamed, for_few_rows
from core.engine.sampling import Sampling, penalised, pick
from core.mesh import RULES
from core.padding import bucket, pad
from core.past.cache import Cache, Start
from core.tap import as_argument

STOPS = 8  # the list of end tokens is padded to a multiple of this


@struct.dataclass
class State:
  """Everything that changes while rows are decoded."""

  tokens: jax.Array  # int32 [B, N], generated
  logp: jax.Array  # float32 [B, N], as `core.engine.sampling.pick` defines it
  count: jax.Array  # int32 [B], generated tokens
  position: jax.Array  # int32 [B], of the last generated token
  done: jax.Array  # bool [B]
  failed: jax.Array  # bool [B]: the sum of the logits was not finite, so the row ended before that token
  cache: Any


@struct.dataclass
class Ends:
  """Where rows end: stops int32 [n], -1 at padding; limit int32 [B], new tokens at most."""

  stops: jax.Array
  limit: jax.Array


@struct.dataclass
class DecoderStep:
  """The step of a `core.decoder`; the cache is a `core.past.cache.Cache`."""

  params: decoder.Params
  config: decoder.Config = struct.field(pytree_node=False)
  rules: tuple = struct.field(pytree_node=False, default=tuple(RULES.items()))
  edit: Callable | None = struct.field(pytree_node=False, default=None)  # as in `core.tap`

  def __call__(self, cache, token, position):
    """(logits, cache) after one token a row."""
    x = decoder.embed(self.params, token)
    options = {'positions': position, 'cache': cache, 'rules': dict(self.rules), 'edit': self.edit}
    out = decoder.forward(self.params, self.config, x, **options)
    return decoder.logits(self.params, self.config, out.hidden)[:, 0], out.cache


@struct.dataclass
class RepetitionPenalty:
  """A hook: tokens of the prompt (int32 [B, T], -1 at padding) and of the response are penalised by `penalty` [B]."""

  prompt: jax.Array
  penalty: jax.Array

  def __call__(self, logits, state: State):
    """As `core.engine.sampling.penalised`."""
    vocab = logits.shape[-1]
    rows = jnp.arange(logits.shape[0])[:, None]
    generated = jnp.arange(state.tokens.shape[1]) < state.count[:, None]
    said = jnp.where(generated, state.tokens, vocab)
    prompt = jnp.where(self.prompt < 0, vocab, self.prompt)
    seen = jnp.zeros(logits.shape, bool)
    seen = seen.at[rows, prompt].set(True, mode='drop')
    seen = seen.at[rows, said].set(True, mode='drop')
    return penalised(logits, seen, self.penalty)


def _next(state: State, logits, sampling: Sampling, ends: Ends, hook) -> State:
  """Appends one token to each row that is not done."""
  choices = logits
  if hook is not None:
    choices = hook(logits, state)
  token, logp = pick(logits, sampling, state.position + 1, choices)
  rows = jnp.arange(token.shape[0])
  failed = ~state.done & jnp.isnan(logp)
  live = ~state.done & ~failed
  at = jnp.where(live, state.count, state.tokens.shape[1])  # out of bounds is dropped
  count = state.count + live
  ended = jnp.isin(token, ends.stops) | (count >= ends.limit)
  return state.replace(
    tokens=state.tokens.at[rows, at].set(token, mode='drop'),
    logp=state.logp.at[rows, at].set(logp, mode='drop'),
    count=count,
    position=state.position + live,
    done=state.done | failed | ended,
    failed=state.failed | failed,
  )


@functools.partial(jax.jit, static_argnames='new')
def _start(logits, cache, position, sampling, ends: Ends, hook, *, new: int) -> State:
  """The state after the first token of each row, from the logits [B, V] after its prompt."""
  b = logits.shape[0]
  empty = State(
    tokens=jnp.zeros((b, new), jnp.int32),
    logp=jnp.zeros((b, new), jnp.float32),
    count=jnp.zeros(b, jnp.int32),
    position=position,
    done=ends.limit < 1,
    failed=jnp.zeros(b, bool),
    cache=cache,
  )
  return _next(empty, logits, sampling, ends, hook)


@functools.partial(jax.jit, static_argnames=('config', 'new', 'rules', 'edit'), donate_argnames='past')
def _prefill(params, config, x, positions, past, sampling, ends, hook, *, new, rules, edit) -> State:
  """`_start` of a decoder, after its prompt's embeddings x [B, T, D] behind `past`, a `Start` or a `Cache`."""
  out = decoder.forward(params, config, x, positions=positions, cache=past, rules=dict(rules), edit=edit)
  last = jnp.argmax(positions, -1)
  hidden = jnp.take_along_axis(out.hidden, last[:, None, None], 1)
  logits = decoder.logits(params, config, hidden)[:, 0]
  return _start(logits, out.cache, positions.max(-1), sampling, ends, hook, new=new)


@functools.partial(jax.jit, donate_argnames='state')
def _decode(step, state: State, sampling, ends: Ends, hook, until) -> State:
  """Decodes until all rows are done or the longest has `until` new tokens."""
  rows = jnp.arange(state.done.shape[0])

  def advance(s: State) -> State:
    last = s.tokens[rows, s.count - 1][:, None]
    position = jnp.where(s.done, -1, s.position)[:, None]
    logits, cache = step(s.cache, last, position)
    return _next(s.replace(cache=cache), logits, sampling, ends, hook)

  return jax.lax.while_loop(lambda s: ~s.done.all() & (s.count.max() < until), advance, state)


def for_decoding(params: decoder.Params) -> decoder.Params:
  """The decoder's weights as decoding wants them (`core.engine.layout.for_few_rows`)."""
  return for_few_rows(params, as_streamed)


def _ends(stops: Sequence[int], limit: np.ndarray) -> Ends:
  padding = [-1] * (-len(stops) % STOPS or STOPS * (not stops))
  return Ends(jnp.asarray([*stops, *padding], jnp.int32), jnp.asarray(limit))


class Generation:
  """Rows being generated: `advance(until)` decodes further, `rows()` reads the tokens so far."""

  def __init__(self, step: Callable, state: State, sampling: Sampling, ends: Ends, hook: Callable | None = None):
    self._step = as_argument(step)
    self._hook = as_argument(hook)
    self._sampling = sampling
    self._ends = ends
    self.state = state

  def advance(self, until: int = 2**30) -> State:
    """Decodes until every row is done or the longest has `until` tokens."""
    self.state = _decode(self._step, self.state, self._sampling, self._ends, self._hook, jnp.int32(until))
    return self.state

  @property
  def finished(self) -> bool:
    """Whether every row has ended."""
    return bool(self.state.done.all())

  def rows(self) -> list[np.ndarray]:
    """The tokens of each row so far, int32 [count], an end token included.

    Raises ValueError if a row's logits were NaN or infinite.
    """
    state = self.state
    failed = np.flatnonzero(state.failed)
    if failed.size:
      row = int(failed[0])
      raise ValueError(f'row {row}: the logits after {int(state.count[row])} new tokens are NaN or infinite')
    tokens = np.asarray(state.tokens)
    count = np.asarray(state.count)
    return [row[:n] for row, n in zip(tokens, count)]


def begin(
  step: Callable,
  cache: Any,
  logits: jax.Array,
  position: jax.Array,
  *,
  max_new: int | np.ndarray,
  sampling: Sampling,
  stops: Sequence[int] = (),
  hook: Callable | None = None,
) -> Generation:
  """The generation of any model from its cache and the logits [B, V] after a prompt that ends at `position` [B].

  max_new: a number, or one a row. The cache must hold max_new tokens more.
  """
  limit = np.broadcast_to(np.asarray(max_new, np.int32), position.shape)
  ends = _ends(stops, limit)
  new = bucket(max(int(limit.max()), 1))
  state = _start(logits, cache, jnp.asarray(position), sampling, ends, as_argument(hook), new=new)
  return Generation(step, state, sampling, ends, hook)


def slots_for(tokens: int, max_new: int) -> int:
  """Cache slots that `prompted` fills at most, for prompts of `tokens` and responses of `max_new`."""
  return bucket(tokens) + bucket(max(max_new, 1))


def prompted(
  params: decoder.Params,
  config: decoder.Config,
  x: Any,
  positions: Any,
  *,
  max_new: int | np.ndarray,
  sampling: Sampling,
  stops: Sequence[int] = (),
  hook: Callable | None = None,
  past: Cache | None = None,
  rules=RULES,
  edit: Callable | None = None,
) -> Generation:
  """The generation of a decoder after a prompt.

  x: embeddings [B, T, D] or tokens int32 [B, T]; positions: int32 [B, T], -1 at padding on either side. max_new: a
  number, or one a row. T and max_new are rounded up to buckets, so lengths in one bucket compile once.
  past: a cache of earlier tokens with `slots_for` slots left, after which x and its positions come; it is donated.
  edit: as in `core.tap`, of prompt and response; each function compiles once.
  Raises ValueError if a row has no token, or prompt and response exceed the model's context.
  """
  positions = np.asarray(positions, np.int32)
  limit = np.broadcast_to(np.asarray(max_new, np.int32), positions.shape[:1])
  _check_lengths(positions, limit, config.max_length)
  length = bucket(positions.shape[1])
  x = pad(jnp.asarray(x), length, axis=1)
  if x.ndim == 2:
    x = decoder.embed(params, x)
  positions = pad(positions, length, axis=1, fill=-1)
  new = bucket(max(int(limit.max()), 1))
  ends = _ends(stops, limit)
  rules = tuple(rules.items())
  state = _prefill(
    params,
    config,
    x,
    positions,
    Start(length + new) if past is None else past,
    sampling,
    ends,
    as_argument(hook),
    new=new,
    rules=rules,
    edit=edit,
  )
  return Generation(DecoderStep(params, config, rules, edit), state, sampling, ends, hook)


def _check_lengths(positions: np.ndarray, limit: np.ndarray, context: int) -> None:
  last = positions.max(-1)
  if last.min() < 0:
    raise ValueError(f'row {int(last.argmin())} of the prompt has no token')
  if (last + 1 + limit).max() > context:
    raise ValueError(
      f'prompt of {int(last.max()) + 1} tokens and {int(limit.max())} new ones exceed the context of {context}'
    )


def run(params: decoder.Params, config: decoder.Config, x: Any, positions: Any, **options) -> State:
  """All new tokens of a batch at once; options as in `prompted`. Raises ValueError as `Generation.rows`."""
  generation = prompted(params, config, x, positions, **options)
  state = generation.advance()
  generation.rows()
  return state
