"""Causal attention of a run of tokens to itself on a CPU: each block of queries reads the keys up to its own end.

XLA for CPU writes the scores of a whole batch to memory, and transposes them once more for their gradient. Here a block
of queries, for one row and one key head at a time, leaves its scores in the cache, and keys that are later than all of
its queries are never multiplied. The backward pass computes the scores again (FlashAttention, arXiv 2205.14135).

B batch   T tokens   N query heads   K key heads   G = N/K   H head size   L = B K, lines
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.attention import sizes
from core.attention.keys import MASKED, How, Keys, visible

BLOCK = 64  # queries of a block, at least
BLOCKS = 8  # of queries, at most: the program has each of them
LONGEST = BLOCKS * sizes.QUERY_BLOCK  # tokens; of more, a block's scores take more memory than in 'chunked'
BLIND = MASKED / 2  # the least maximum of scores: where a query sees nothing, all its weights become 0
TINY = 1e-30  # the least sum of weights


class _Line(NamedTuple):
  """What one key head of one row reads: q [T, G, H], k and v [T, H], positions and segments [T], sinks [G]."""

  q: jax.Array
  k: jax.Array
  v: jax.Array
  positions: jax.Array
  segments: jax.Array | None
  sinks: jax.Array | None


class _Saved(NamedTuple):
  """What the forward pass keeps of a line: its output [T, G, H], and the float32 log of the weights' sum [T, G]."""

  out: jax.Array
  norm: jax.Array


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """As `core.attention.attention`, of one run of keys, the queries' own tokens: [B, T, N, H].

  The output of a query that sees nothing is 0.
  """
  (keys,) = runs
  b, t, n, h = q.shape
  heads = keys.k.shape[1]
  by_head = q.reshape(b, t, heads, n // heads, h).swapaxes(1, 2)
  lines = _Line(
    q=_merged(by_head),
    k=_merged(keys.k),
    v=_merged(keys.v),
    positions=_repeated(positions, b, heads),
    segments=None if segments is None else _repeated(segments, b, heads),
    sinks=None if sinks is None else jnp.tile(sinks.astype(jnp.float32).reshape(heads, -1), (b, 1)),
  )
  out = _attention(how.window, how.divisor, lines)
  return out.reshape(b, heads, t, n // heads, h).swapaxes(1, 2).reshape(q.shape)


def _merged(x: jax.Array) -> jax.Array:
  """[B, K, ...] as [L, ...]."""
  return x.reshape(-1, *x.shape[2:])


def _repeated(x: jax.Array, rows: int, heads: int) -> jax.Array:
  """[B or 1, T] as [L, T]."""
  return jnp.repeat(jnp.broadcast_to(x, (rows, x.shape[1])), heads, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(window: int | None, divisor: float, lines: _Line) -> jax.Array:
  """The output [L, T, G, H] of all lines [L, ...]."""
  return _forward(window, divisor, lines)[0]


def _forward(window, divisor, lines):
  how = How(causal=True, window=window, divisor=divisor, rules={})
  saved = jax.lax.map(functools.partial(_line, how=how), lines)
  return saved.out, (lines, saved)


def _backward(window, divisor, kept, gradient):
  how = How(causal=True, window=window, divisor=divisor, rules={})
  gradients = jax.lax.map(lambda given: _line_gradient(*given, how=how), (*kept, gradient))
  return (gradients,)


_attention.defvjp(_forward, _backward)


class _Block(NamedTuple):
  """Queries `rows`, and the keys `near` that they may see."""

  rows: slice
  near: slice


def _blocks(length: int, window: int | None) -> Iterator[_Block]:
  """All queries in equal blocks. Positions grow at least as fast as indices, so a window is also one of indices."""
  size = max(BLOCK, math.ceil(length / BLOCKS))
  for start in range(0, length, size):
    stop = min(start + size, length)
    first = 0 if window is None else max(0, start - window + 1)
    yield _Block(slice(start, stop), slice(first, stop))


def _scores(line: _Line, block: _Block, how: How) -> jax.Array:
  """Masked float32 scores [rows, G, near]."""
  q = line.q[block.rows]
  size, group, h = q.shape
  product = jnp.matmul(q.reshape(-1, h), line.k[block.near].T, preferred_element_type=jnp.float32)
  scores = product.reshape(size, group, -1) / how.divisor
  return jnp.where(_mask(line, block, how)[:, None], scores, MASKED)


def _mask(line: _Line, block: _Block, how: How) -> jax.Array:
  """Bool [rows, near]."""
  part = lambda x, where: None if x is None else x[None, where]
  keys = Keys(line.k, line.v, part(line.positions, block.near), part(line.segments, block.near))
  return visible(part(line.positions, block.rows), part(line.segments, block.rows), keys, how)[0]


def _line(line: _Line, *, how: How) -> _Saved:
  """Attention of one line, block after block."""
  done = [_block(line, block, how) for block in _blocks(len(line.q), how.window)]
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *done)


def _block(line: _Line, block: _Block, how: How) -> _Saved:
  scores = _scores(line, block, how)
  top = jnp.maximum(scores.max(-1), BLIND)
  if line.sinks is not None:
    top = jnp.maximum(top, line.sinks)
  weights = jnp.exp(scores - top[..., None])
  total = weights.sum(-1)
  if line.sinks is not None:
    total = total + jnp.exp(line.sinks - top)
  total = jnp.maximum(total, TINY)
  summed = _times(weights, line.v[block.near])
  return _Saved((summed / total[..., None]).astype(line.q.dtype), top + jnp.log(total))


def _times(weights: jax.Array, values: jax.Array) -> jax.Array:
  """float32 [rows, G, H]: weights [rows, G, near] times values [near, H], in the values' dtype."""
  matrix = weights.reshape(-1, len(values)).astype(values.dtype)
  product = jnp.matmul(matrix, values, preferred_element_type=jnp.float32)
  return product.reshape(*weights.shape[:2], -1)


def _line_gradient(line: _Line, saved: _Saved, gradient: jax.Array, *, how: How) -> _Line:
  """The gradient of a line, from that of its output [T, G, H]."""
  wide = gradient.astype(jnp.float32)
  along = jnp.sum(wide * saved.out.astype(jnp.float32), -1)  # what the softmax subtracts, [T, G]
  k = jnp.zeros(line.k.shape, jnp.float32)
  v = jnp.zeros(line.v.shape, jnp.float32)
  queries = []
  for block in _blocks(len(line.q), how.window):
    scores = _scores(line, block, how)
    weights = jnp.exp(scores - saved.norm[block.rows][..., None])
    towards = _times(gradient[block.rows], line.v[block.near].T)
    slopes = weights * (towards - along[block.rows][..., None]) / how.divisor
    queries.append(_times(slopes, line.k[block.near]))
    k = k.at[block.near].add(_summed(slopes, line.q[block.rows]))
    v = v.at[block.near].add(_summed(weights, gradient[block.rows]))
  sinks = None
  if line.sinks is not None:
    sinks = -jnp.sum(jnp.exp(line.sinks - saved.norm) * along, 0)
  q = jnp.concatenate(queries)
  dtypes = line.q.dtype, line.k.dtype, line.v.dtype
  q, k, v = (x.astype(dtype) for x, dtype in zip((q, k, v), dtypes))
  return _Line(q, k, v, None, None, sinks)


def _summed(weights: jax.Array, values: jax.Array) -> jax.Array:
  """float32 [near, H]: the sum over queries of weights [rows, G, near] times values [rows, G, H]."""
  matrix = weights.reshape(-1, weights.shape[-1]).astype(values.dtype)
  return jnp.matmul(matrix.T, values.reshape(-1, values.shape[-1]), preferred_element_type=jnp.float32)


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  if len(runs) != 1 or not how.causal or runs[0].positions is not positions:
    return 'triangle needs causal attention of one run of tokens to itself'
  if segments is not None and runs[0].segments is not segments:
    return 'triangle needs the segments of queries and keys to be one array'
  if runs[0].subtrees is not None or runs[0].columns:
    return 'triangle needs keys in rows, and no packed trees'
  if bias is not None:
    return 'triangle has no additive bias'
  return None


def decline(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why the default is faster for these arguments, or None."""
  if q.shape[1] < 2 * BLOCK:
    return f'{q.shape[1]} queries are too few to be cut'
  if q.shape[1] > LONGEST:
    return f'{q.shape[1]} queries make {BLOCKS} blocks too large'
  if jax.sharding.get_abstract_mesh().size > 1:
    return 'rows and heads that several devices hold are not taken one by one'
  return None
