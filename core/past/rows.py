"""A `Cache` whose rows start, end and restart independently of each other.

B rows   S slots
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.padding import pad
from core.past.cache import Cache


def separate(cache: Cache) -> Cache:
  """The cache with a length for each row, int32 [B], instead of one for all.

  Padding must be on the right: the next token of a row then overwrites its padding.
  """
  held = jnp.sum(cache.positions >= 0, 1, dtype=jnp.int32)
  return cache.replace(length=held)


def joined(a: Cache, b: Cache) -> Cache:
  """The rows of `a`, then those of `b`; both with a length for each row, and the same number of slots."""

  return _by_rows(lambda x, y, axis: jnp.concatenate([x, y], axis), a, b)


def _by_rows(function: Callable, *caches: Cache) -> Cache:
  """`function(*arrays, axis=…)` of each array of the caches, whose rows are along the axis."""
  axis = _row_axis(caches[0])
  stacked = functools.partial(function, axis=axis)
  first = functools.partial(function, axis=0)
  return Cache(
    k=jax.tree.map(stacked, *(c.k for c in caches)),
    v=jax.tree.map(stacked, *(c.v for c in caches)),
    positions=first(*(c.positions for c in caches)),
    length=first(*(c.length for c in caches)),
  )


def _row_axis(cache: Cache) -> int:
  """The axis of rows in k and v: stacked ones have layers before it."""
  if isinstance(cache.k, tuple):
    return 0
  return 1


def select(rows: jax.Array, new: Cache, old: Cache) -> Cache:
  """`new`, with the tokens since `old` taken back where bool `rows` [B] is false: their slots are empty again."""
  positions = jnp.where(rows[:, None], new.positions, old.positions)
  length = jnp.where(rows, new.length, old.length)
  return new.replace(positions=positions, length=length)


def reset(cache: Cache, rows: jax.Array) -> Cache:
  """The cache with bool `rows` [B] empty: their next token is at position 0."""
  positions = jnp.where(rows[:, None], -1, cache.positions)
  length = jnp.where(rows, 0, cache.length)
  return cache.replace(positions=positions, length=length)


def take(cache: Cache, row: jax.Array) -> Cache:
  """The cache of one row, int32 [], so that B is 1."""

  return _by_rows(lambda x, axis: jax.lax.dynamic_slice_in_dim(x, row, 1, axis), cache)


def put(cache: Cache, row: jax.Array, one: Cache) -> Cache:
  """The cache with one row, int32 [], replaced by that of `one`, as `take` gives it."""

  return _by_rows(lambda x, y, axis: jax.lax.dynamic_update_slice_in_dim(x, y, row, axis), cache, one)


def grown(cache: Cache, slots: int) -> Cache:
  """The cache with `slots` slots for each row. Raises ValueError for fewer than it has."""
  widen = functools.partial(pad, length=slots, what='cache')
  key_axis = 3  # both of columns [B, K, H, S] and of rows [L, B, K, S, H]
  value_axis = 2 if isinstance(cache.k, tuple) else 3
  return Cache(
    k=jax.tree.map(functools.partial(widen, axis=key_axis), cache.k),
    v=jax.tree.map(functools.partial(widen, axis=value_axis), cache.v),
    positions=widen(cache.positions, axis=1, fill=-1),
    length=cache.length,
  )


def unstacked(cache: Cache) -> Cache:
  """The cache as unstacked blocks want it: a tuple over layers, keys in columns."""
  if isinstance(cache.k, tuple):
    return cache
  columns = jnp.swapaxes(cache.k, -1, -2)
  return cache.replace(k=tuple(columns), v=tuple(cache.v))
