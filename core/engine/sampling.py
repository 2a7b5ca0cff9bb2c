"""Sampling: parameters of each row, filters of its distribution, and the draw.

B rows   V vocabulary

A sampling key derives from (request seed, position), so a request gets the same tokens in any batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

BLOCK = 128  # tokens of a block: a draw picks a block, then a token of it


@struct.dataclass
class Sampling:
  """How each row samples, arrays [B].

  temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 change nothing.
  """

  temperature: jax.Array  # float32
  top_k: jax.Array  # int32
  top_p: jax.Array  # float32
  min_p: jax.Array  # float32
  seed: jax.Array  # uint32
  repetition_penalty: jax.Array  # float32

  @classmethod
  def of(
    cls, rows: int, *, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, repetition_penalty=1.0
  ) -> 'Sampling':
    """From numbers, or sequences of one number a row; a single seed gives row b the seed `seed + b`.

    Raises ValueError naming the value that is out of range.
    """
    _check(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty)
    seeds = np.asarray(seed)
    if seeds.ndim == 0:
      seeds = seeds + np.arange(rows)
    seeds = seeds % 2**31

    def row_array(x, dtype):
      values = np.asarray(x, dtype)
      return np.broadcast_to(values, (rows,))

    return cls(
      temperature=row_array(temperature, np.float32),
      top_k=row_array(top_k, np.int32),
      top_p=row_array(top_p, np.float32),
      min_p=row_array(min_p, np.float32),
      seed=row_array(seeds, np.uint32),
      repetition_penalty=row_array(repetition_penalty, np.float32),
    )


# Of each value, what is required and whether an array meets it.
_RANGES = {
  'temperature': ('0 <= temperature < inf', lambda x: (x >= 0) & (x < np.inf)),
  'top_k': ('top_k a whole number >= 0', lambda x: (x >= 0) & (x % 1 == 0)),
  'top_p': ('0 < top_p <= 1', lambda x: (x > 0) & (x <= 1)),
  'min_p': ('0 <= min_p < 1', lambda x: (x >= 0) & (x < 1)),
  'repetition_penalty': ('0 < repetition_penalty < inf', lambda x: (x > 0) & (x < np.inf)),
}


def _check(**values) -> None:
  """Raises ValueError for the first value out of range; NaN is out of every range."""
  for name, (requirement, holds) in _RANGES.items():
    value = np.asarray(values[name])
    if holds(value).all():
      continue
    given = ', '.join(f'{name}={x}' for name, x in values.items())
    raise ValueError(f'sampling: need {requirement}; got {given}')


def filtered(logits: jax.Array, s: Sampling) -> jax.Array:
  """Logits [B, V] with tokens outside top-k, then top-p, then min-p set to -inf; the best one always stays."""
  order = jnp.argsort(-logits, axis=-1)
  ranked = jnp.take_along_axis(logits, order, -1)
  rank = jnp.arange(logits.shape[-1])
  top_k = s.top_k[:, None]
  beyond_k = (top_k > 0) & (rank >= top_k)
  ranked = jnp.where(beyond_k, -jnp.inf, ranked)
  p = jax.nn.softmax(ranked, -1)
  mass_before = jnp.cumsum(p, -1) - p
  in_top_p = mass_before < s.top_p[:, None]
  best = p[:, :1]
  least = s.min_p[:, None] * best
  in_min_p = p >= least
  is_best = rank == 0
  keep = in_top_p & in_min_p | is_best
  ranked = jnp.where(keep, ranked, -jnp.inf)
  nothing = jnp.full_like(logits, -jnp.inf)
  return jnp.put_along_axis(nothing, order, ranked, -1, inplace=False)


def penalised(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
  """Logits [B, V] with those of `seen` tokens (bool [B, V]) divided by `penalty` [B] if positive, else multiplied.

  As `RepetitionPenaltyLogitsProcessor` of transformers (CTRL, arXiv:1909.05858, §4.1).
  """
  penalty = penalty[:, None]
  is_negative = logits < 0
  lowered = jnp.where(is_negative, logits * penalty, logits / penalty)
  return jnp.where(seen, lowered, logits)


def pick(logits: jax.Array, s: Sampling, position: jax.Array, choices: jax.Array | None = None):
  """(token int32 [B], log-probability float32 [B]) from float32 logits [B, V] for the token at `position` [B].

  choices: the logits to choose from where they are not the model's own: masked, penalised or rewritten, float32 [B, V].
  The log-probability is always that of the model's own distribution at the row's temperature (1 if greedy), before any
  mask, penalty, hook or filter. It is NaN exactly if the row's logits have no finite sum, as a NaN makes them.
  """
  greedy = s.temperature == 0
  temperature = _temperature(s)
  if choices is None:
    choices = logits
  best = _best(choices)
  draw = lambda: _draw(choices / temperature, s, position)
  drawn = jax.lax.cond(greedy.all(), lambda: best, draw)
  token = jnp.where(greedy, best, drawn)
  scaled = logits / temperature
  chosen = jnp.take_along_axis(scaled, token[:, None], -1)[:, 0]
  total = jax.nn.logsumexp(scaled, -1)
  is_finite = jnp.isfinite(total)
  logp = jnp.where(is_finite, chosen - total, jnp.nan)
  return token, logp


def _draw(scaled: jax.Array, s: Sampling, position: jax.Array) -> jax.Array:
  """A token of each row, int32 [B], drawn from the softmax of filtered logits [B, V]."""
  filters = (s.top_k > 0) | (s.top_p < 1) | (s.min_p > 0)
  # Filtering sorts the vocabulary, so it is skipped unless a row asks for it.
  kept = jax.lax.cond(jnp.any(filters), lambda: filtered(scaled, s), lambda: scaled)
  return jax.vmap(_drawn)(kept, s.seed, position)


def _temperature(s: Sampling) -> jax.Array:
  """float32 [B, 1] to divide logits by: 1 for greedy rows."""
  is_greedy = s.temperature == 0
  temperature = jnp.where(is_greedy, 1.0, s.temperature)
  return temperature[:, None]


def _best(z: jax.Array) -> jax.Array:
  """The first of the largest of [..., V], int32; V - 1 if one is NaN. XLA's argmax does not vectorise on a CPU."""
  size = z.shape[-1]
  index = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1)
  top = z.max(-1, keepdims=True)
  is_top = z == top
  return jnp.where(is_top, index, size - 1).min(-1)


def _drawn(z: jax.Array, seed: jax.Array, position: jax.Array) -> jax.Array:
  """A token, int32, of one row's distribution, the softmax of z [V].

  By inversion, a block of tokens first and then a token of it: two random numbers, where Gumbel noise takes V, and
  improbable tokens keep their share.
  """
  of_request = jax.random.key(seed)
  key = jax.random.fold_in(of_request, position)
  which_block, which_token = jax.random.uniform(key, 2)
  weights = jnp.exp(z - z.max())
  missing = -len(z) % BLOCK
  padded = jnp.pad(weights, (0, missing))
  blocks = padded.reshape(-1, BLOCK)
  block = _passed(blocks.sum(-1), which_block)
  place = _passed(blocks[block], which_token)
  token = BLOCK * block + place
  return jnp.minimum(token, len(z) - 1)  # NaN would choose padding


def _passed(weights: jax.Array, share: jax.Array) -> jax.Array:
  """The first index, int32, at which the sum of weights passes a share, below 1, of the total; its weight is not 0."""
  total = jnp.cumsum(weights)
  wanted = share * total[-1]
  is_passed = (total > wanted) & (weights > 0)
  first = _best(is_passed)
  heaviest = _best(weights)
  # Rounding may leave none: sums of a different number of terms need not grow with it.
  return jnp.where(is_passed.any(), first, heaviest)


def likeliest(logits: jax.Array, s: Sampling, count: int) -> tuple[jax.Array, jax.Array]:
  """The `count` likeliest tokens, int32 [B, count], and their log-probabilities, float32, of float32 logits [B, V].

  They come from the distribution that `pick` takes log-probabilities of, the likeliest token first.
  """
  scaled = logits / _temperature(s)
  all_logp = jax.nn.log_softmax(scaled)
  logp, token = jax.lax.top_k(all_logp, count)
  return token.astype(jnp.int32), logp
