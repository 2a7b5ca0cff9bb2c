"""Token sampling, and a jitted generate loop for simple use.

B rows   T prompt slots   V vocabulary   N new-token slots

Sampling keys derive from (request seed, position): a request gives the same tokens whatever stands beside it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.mesh import RULES
from core.padding import bucket, pad
from core.params import unstack


@struct.dataclass
class Sampling:
  """How each row samples, arrays [B]. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 filter nothing."""

  temperature: jax.Array
  top_k: jax.Array
  top_p: jax.Array
  min_p: jax.Array
  seed: jax.Array

  @classmethod
  def of(cls, rows: int, *, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0) -> 'Sampling':
    """From numbers, or sequences of one a row; a single seed gives row b the seed `seed + b`.

    Raises ValueError naming the value that is out of range.
    """
    seed = seed + np.arange(rows) if np.ndim(seed) == 0 else seed
    full = lambda x, dtype: np.broadcast_to(np.asarray(x, dtype), (rows,))
    checks = {
      'temperature >= 0': np.min(temperature) >= 0,
      'top_k >= 0': np.min(top_k) >= 0,
      '0 < top_p <= 1': np.min(top_p) > 0 and np.max(top_p) <= 1,
      '0 <= min_p < 1': np.min(min_p) >= 0 and np.max(min_p) < 1,
    }
    for rule, holds in checks.items():
      if not holds:
        raise ValueError(f'sampling: need {rule}; got {temperature=}, {top_k=}, {top_p=}, {min_p=}')
    return cls(
      full(temperature, np.float32),
      full(top_k, np.int32),
      full(top_p, np.float32),
      full(min_p, np.float32),
      full(np.asarray(seed) % 2**31, np.uint32),
    )


def filtered(logits: jax.Array, s: Sampling) -> jax.Array:
  """Logits [B, V] with tokens outside top-k, then top-p, then min-p set to -inf; the best one always stays."""
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(logits, order, -1)
  rank = jnp.arange(logits.shape[-1])
  ranked = jnp.where((s.top_k[:, None] > 0) & (rank >= s.top_k[:, None]), -jnp.inf, ranked)
  p = jax.nn.softmax(ranked, -1)
  keep = (jnp.cumsum(p, -1) - p < s.top_p[:, None]) & (p >= s.min_p[:, None] * p[:, :1]) | (rank == 0)
  ranked = jnp.where(keep, ranked, -jnp.inf)
  return jnp.put_along_axis(jnp.full_like(logits, -jnp.inf), order, ranked, -1, inplace=False)


def pick(logits: jax.Array, s: Sampling, position: jax.Array, allowed: jax.Array | None = None):
  """(token int32 [B], log-probability float32 [B]) from float32 logits [B, V] for the slot at `position` [B].

  The log-probability is the model's at the row's temperature (1 when greedy), before any filter.
  allowed: bool [B, V] or [V]; other tokens cannot be chosen.
  """
  if allowed is not None:
    logits = jnp.where(allowed, logits, -jnp.inf)
  greedy = s.temperature == 0
  scaled = logits / jnp.where(greedy, 1.0, s.temperature)[:, None]

  def draw():
    narrow = jnp.any((s.top_k > 0) | (s.top_p < 1) | (s.min_p > 0))
    z = jax.lax.cond(narrow, lambda: filtered(scaled, s), lambda: scaled)
    key = jax.vmap(lambda seed, at: jax.random.fold_in(jax.random.key(seed), at))(s.seed, position)
    return jax.vmap(jax.random.categorical)(key, z).astype(jnp.int32)

  best = jnp.argmax(logits, -1).astype(jnp.int32)
  token = jnp.where(greedy, best, jax.lax.cond(greedy.all(), lambda: best, draw))
  chosen = jnp.take_along_axis(scaled, token[:, None], -1)[:, 0]
  return token, chosen - jax.nn.logsumexp(scaled, -1)


@struct.dataclass
class State:
  """Everything that changes while rows are decoded."""

  tokens: jax.Array  # int32 [B, N], generated
  logp: jax.Array  # float32 [B, N]
  count: jax.Array  # int32 [B], how many of them
  position: jax.Array  # int32 [B], of the last generated token
  done: jax.Array  # bool [B]
  cache: Any


@functools.partial(jax.jit, static_argnames=('config', 'capacity', 'new', 'rules'))
def _prefill(params, config, x, positions, sampling, stops, limit, *, capacity, new, rules) -> State:
  b = x.shape[0]
  out = decoder.forward(params, config, x, positions=positions, cache=capacity, rules=dict(rules))
  last = jnp.argmax(positions, -1)
  hidden = jnp.take_along_axis(out.hidden, last[:, None, None], 1)
  position = positions.max(-1) + 1
  token, logp = pick(decoder.logits(params, config, hidden)[:, 0], sampling, position)
  empty = State(
    jnp.zeros((b, new), jnp.int32),
    jnp.zeros((b, new), jnp.float32),
    jnp.zeros(b, jnp.int32),
    position - 1,
    limit < 1,
    out.cache,
  )
  return _note(empty, token, logp, stops, limit)


def _note(state: State, token, logp, stops, limit) -> State:
  """Appends one token to each row that is not done."""
  rows = jnp.arange(token.shape[0])
  at = jnp.where(state.done, state.tokens.shape[1], state.count)  # out of bounds is dropped
  live = ~state.done
  count = state.count + live
  return state.replace(
    tokens=state.tokens.at[rows, at].set(token, mode='drop'),
    logp=state.logp.at[rows, at].set(logp, mode='drop'),
    count=count,
    position=state.position + live,
    done=state.done | jnp.isin(token, stops) | (count >= limit),
  )


@functools.partial(jax.jit, static_argnames=('config', 'rules'), donate_argnames='state')
def _decode(params, config, state, sampling, stops, limit, until, *, rules) -> State:
  """Decodes until all rows are done or the longest has `until` new tokens."""
  rows = jnp.arange(state.done.shape[0])

  def step(s: State) -> State:
    last = s.tokens[rows, s.count - 1][:, None]
    positions = jnp.where(s.done, -1, s.position)[:, None]
    out = decoder.forward(
      params, config, decoder.embed(params, last), positions=positions, cache=s.cache, rules=dict(rules)
    )
    z = decoder.logits(params, config, out.hidden)[:, 0]
    token, logp = pick(z, sampling, s.position + 1)
    return _note(s.replace(cache=out.cache), token, logp, stops, limit)

  return jax.lax.while_loop(lambda s: ~s.done.all() & (s.count.max() < until), step, state)


def for_decoding(params: decoder.Params) -> decoder.Params:
  """The decoder's weights as decoding wants them: unstacked, except on TPU where the layer slice fuses."""
  device = next(iter(jax.tree.leaves(params)[0].devices()))
  if isinstance(params.blocks, tuple) or device.platform == 'tpu':
    return params
  return params.replace(blocks=unstack(params.blocks))


class Generation:
  """Rows being generated: `advance(until)` decodes on, `rows()` reads the tokens so far.

  x: embeddings [B, T, D] or tokens int32 [B, T]; positions int32 [B, T], -1 at padding (either side). max_new: a
  number or one a row. T and max_new are rounded up to buckets, so lengths in one bucket compile once.
  Raises ValueError when a row has no token, or prompt and answer exceed the model's context.
  """

  def __init__(
    self, params, config, x, positions, *, max_new, sampling: Sampling, stops: Sequence[int] = (), rules=RULES
  ):
    positions = np.asarray(positions, np.int32)
    b, t = positions.shape
    limit = np.broadcast_to(np.asarray(max_new, np.int32), (b,))
    longest = positions.max(-1) + 1 + limit
    if positions.max(-1).min() < 0:
      raise ValueError(f'row {int(positions.max(-1).argmin())} of the prompt has no token')
    if longest.max() > config.max_length:
      raise ValueError(
        f'prompt of {int(positions.max()) + 1} tokens and {int(limit.max())} new ones exceed the '
        f'context of {config.max_length}'
      )
    x = pad(jnp.asarray(x), bucket(t), axis=1)
    if x.ndim == 2:
      x = decoder.embed(params, x)
    positions = pad(positions, bucket(t), axis=1, fill=-1)
    new = bucket(max(int(limit.max()), 1))
    self._fixed = (params, config)
    self._traced = (sampling, jnp.asarray([*stops, *[-1] * (8 - len(stops))], jnp.int32), jnp.asarray(limit))
    self._rules = tuple(rules.items())
    self.state = _prefill(
      params, config, x, positions, *self._traced, capacity=bucket(t) + new, new=new, rules=self._rules
    )

  def advance(self, until: int = 2**30) -> State:
    """Decodes until every row is done or the longest has `until` tokens."""
    self.state = _decode(*self._fixed, self.state, *self._traced, jnp.int32(until), rules=self._rules)
    return self.state

  @property
  def finished(self) -> bool:
    """Whether every row has stopped."""
    return bool(self.state.done.all())

  def rows(self) -> list[np.ndarray]:
    """The tokens of each row so far, int32 [count], a stop token included."""
    tokens, count = np.asarray(self.state.tokens), np.asarray(self.state.count)
    return [row[:n] for row, n in zip(tokens, count)]


def generate(params, config, x, positions, **options) -> State:
  """All new tokens of a batch in one go; options as in `Generation`."""
  return Generation(params, config, x, positions, **options).advance()
