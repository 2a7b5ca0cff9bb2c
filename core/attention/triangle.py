"""Causal attention of a run of tokens to itself on a CPU: each block of queries reads the keys up to its own end.

XLA for CPU writes the scores of a whole batch to memory, and transposes them once more for their gradient. Here the
scores of a block of queries, for one row and one key head at a time, stay in the cache, and keys after all of its
queries are never multiplied. The backward pass computes the scores again (FlashAttention, arXiv 2205.14135).

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
BLOCKS = 8  # of queries, at most: the program is unrolled over them
LONGEST = BLOCKS * sizes.QUERY_BLOCK  # tokens; with more, a block's scores take more memory than in 'chunked'
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
  groups = n // heads
  by_group = q.reshape(b, t, heads, groups, h)
  by_head = by_group.swapaxes(1, 2)
  lines = _Line(
    q=_merged(by_head),
    k=_merged(keys.k),
    v=_merged(keys.v),
    positions=_repeated(positions, b, heads),
    segments=None if segments is None else _repeated(segments, b, heads),
    sinks=None if sinks is None else _sinks_of_lines(sinks, b, heads),
  )
  out = _attention(how.window, how.divisor, lines)
  by_head = out.reshape(b, heads, t, groups, h)
  return by_head.swapaxes(1, 2).reshape(q.shape)


def _sinks_of_lines(sinks: jax.Array, rows: int, heads: int) -> jax.Array:
  """Sinks [N] as float32 [L, G]."""
  by_head = sinks.astype(jnp.float32).reshape(heads, -1)
  return jnp.tile(by_head, (rows, 1))


def _merged(x: jax.Array) -> jax.Array:
  """[B, K, ...] as [L, ...]."""
  return x.reshape(-1, *x.shape[2:])


def _repeated(x: jax.Array, rows: int, heads: int) -> jax.Array:
  """[B or 1, T] as [L, T]."""
  length = x.shape[1]
  by_row = jnp.broadcast_to(x, (rows, length))
  return jnp.repeat(by_row, heads, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(window: int | None, divisor: float, lines: _Line) -> jax.Array:
  """The output [L, T, G, H] of all lines [L, ...]."""
  out, _ = _forward(window, divisor, lines)
  return out


def _forward(window, divisor, lines):
  how = _how(window, divisor)
  saved = jax.lax.map(functools.partial(_line, how=how), lines)
  return saved.out, (lines, saved)


def _backward(window, divisor, kept, gradient):
  how = _how(window, divisor)
  lines, saved = kept
  gradients = jax.lax.map(lambda given: _line_gradient(*given, how=how), (lines, saved, gradient))
  return (gradients,)


def _how(window, divisor) -> How:
  """The options of a call from those that `custom_vjp` can hash."""
  return How(causal=True, window=window, divisor=divisor, rules={})


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
    first = 0
    if window is not None:
      first = max(0, start - window + 1)
    yield _Block(rows=slice(start, stop), near=slice(first, stop))


def _scores(line: _Line, block: _Block, how: How) -> jax.Array:
  """Masked float32 scores [rows, G, near]."""
  q = line.q[block.rows]
  k = line.k[block.near]
  size, group, h = q.shape
  matrix = q.reshape(-1, h)
  product = jnp.matmul(matrix, k.T, preferred_element_type=jnp.float32)
  scores = product.reshape(size, group, -1) / how.divisor
  mask = _mask(line, block, how)[:, None]
  return jnp.where(mask, scores, MASKED)


def _mask(line: _Line, block: _Block, how: How) -> jax.Array:
  """Bool [rows, near]."""

  def part(x, where):  # as of a batch of one row
    return None if x is None else x[None, where]

  keys = Keys(
    line.k,
    line.v,
    positions=part(line.positions, block.near),
    segments=part(line.segments, block.near),
  )
  positions = part(line.positions, block.rows)
  segments = part(line.segments, block.rows)
  return visible(positions, segments, keys, how)[0]


def _line(line: _Line, *, how: How) -> _Saved:
  """Attention of one line, block after block."""
  blocks = _blocks(len(line.q), how.window)
  saved = [_block(line, block, how) for block in blocks]
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *saved)


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
  out = summed / total[..., None]
  norm = top + jnp.log(total)
  return _Saved(out=out.astype(line.q.dtype), norm=norm)


def _times(weights: jax.Array, values: jax.Array) -> jax.Array:
  """float32 [rows, G, H]: weights [rows, G, near] times values [near, H], in the values' dtype."""
  rows, group, near = weights.shape
  matrix = weights.reshape(-1, near).astype(values.dtype)
  product = jnp.matmul(matrix, values, preferred_element_type=jnp.float32)
  return product.reshape(rows, group, -1)


def _line_gradient(line: _Line, saved: _Saved, gradient: jax.Array, *, how: How) -> _Line:
  """The gradient of a line, from that of its output [T, G, H]."""
  wide = gradient.astype(jnp.float32)
  out = saved.out.astype(jnp.float32)
  along = jnp.sum(wide * out, -1)  # what the softmax subtracts, [T, G]
  q = []
  k = jnp.zeros(line.k.shape, jnp.float32)
  v = jnp.zeros(line.v.shape, jnp.float32)
  for block in _blocks(len(line.q), how.window):
    norm = saved.norm[block.rows][..., None]
    weights = jnp.exp(_scores(line, block, how) - norm)
    of_out = gradient[block.rows]
    towards = _times(of_out, line.v[block.near].T)
    difference = towards - along[block.rows][..., None]
    slopes = weights * difference / how.divisor
    q.append(_times(slopes, line.k[block.near]))
    k = k.at[block.near].add(_summed(slopes, line.q[block.rows]))
    v = v.at[block.near].add(_summed(weights, of_out))
  sinks = None
  if line.sinks is not None:
    shares = jnp.exp(line.sinks - saved.norm)
    sinks = -jnp.sum(shares * along, 0)
  return _Line(
    q=jnp.concatenate(q).astype(line.q.dtype),
    k=k.astype(line.k.dtype),
    v=v.astype(line.v.dtype),
    positions=None,
    segments=None,
    sinks=sinks,
  )


def _summed(weights: jax.Array, values: jax.Array) -> jax.Array:
  """float32 [near, H]: the sum over queries of weights [rows, G, near] times values [rows, G, H]."""
  _, _, near = weights.shape
  _, _, h = values.shape
  by_query = weights.reshape(-1, near).astype(values.dtype)
  return jnp.matmul(by_query.T, values.reshape(-1, h), preferred_element_type=jnp.float32)


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  keys, *others = runs
  if others or not how.causal or keys.positions is not positions:
    return 'triangle needs causal attention of one run of tokens to itself'
  if segments is not None and keys.segments is not segments:
    return 'triangle needs the segments of queries and keys to be one array'
  if keys.subtrees is not None or keys.columns:
    return 'triangle needs keys in rows, and no packed trees'
  if bias is not None:
    return 'triangle has no additive bias'
  return None


def decline(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why the default is faster for these arguments, or None."""
  queries = q.shape[1]
  if queries < 2 * BLOCK:
    return f'{queries} queries are too few to be cut'
  if queries > LONGEST:
    return f'{queries} queries make {BLOCKS} blocks too large'
  if jax.sharding.get_abstract_mesh().size > 1:
    return 'rows and heads that several devices hold are not taken one by one'
  return None
