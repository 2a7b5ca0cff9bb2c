"""A `Cache` whose rows start, end and restart independently of each other.

B rows   S slots
"""

import functools

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

  def along(axis):
    return lambda x, y: jnp.concatenate([x, y], axis)

  by_row = along(_row_axis(a))
  return Cache(
    k=jax.tree.map(by_row, a.k, b.k),
    v=jax.tree.map(by_row, a.v, b.v),
    positions=along(0)(a.positions, b.positions),
    length=along(0)(a.length, b.length),
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

  def one(axis):
    return lambda x: jax.lax.dynamic_slice_in_dim(x, row, 1, axis)

  of_row = one(_row_axis(cache))
  return Cache(
    k=jax.tree.map(of_row, cache.k),
    v=jax.tree.map(of_row, cache.v),
    positions=one(0)(cache.positions),
    length=one(0)(cache.length),
  )


def put(cache: Cache, row: jax.Array, one: Cache) -> Cache:
  """The cache with one row, int32 [], replaced by that of `one`, as `take` gives it."""

  def into(axis):
    return lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, row, axis)

  into_row = into(_row_axis(cache))
  return Cache(
    k=jax.tree.map(into_row, cache.k, one.k),
    v=jax.tree.map(into_row, cache.v, one.v),
    positions=into(0)(cache.positions, one.positions),
    length=into(0)(cache.length, one.length),
  )


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
