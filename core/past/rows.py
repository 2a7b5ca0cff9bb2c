"""A `Cache` whose rows start, end and restart independently of each other.

B rows   S slots
"""

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
  row_axis = 0 if isinstance(a.k, tuple) else 1
  axes = a.replace(
    k=jax.tree.map(lambda _: row_axis, a.k),
    v=jax.tree.map(lambda _: row_axis, a.v),
    positions=0,
    length=0,
  )
  return jax.tree.map(lambda x, y, axis: jnp.concatenate([x, y], axis), a, b, axes)


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
  """The cache of one row, int32 [], alone: B is 1 then."""

  def one(axis):
    return lambda x: jax.lax.dynamic_slice_in_dim(x, row, 1, axis)

  row_axis = 0 if isinstance(cache.k, tuple) else 1
  return Cache(
    k=jax.tree.map(one(row_axis), cache.k),
    v=jax.tree.map(one(row_axis), cache.v),
    positions=one(0)(cache.positions),
    length=one(0)(cache.length),
  )


def put(cache: Cache, row: jax.Array, one: Cache) -> Cache:
  """The cache with one row, int32 [], replaced by that of `one`, as `take` gives it."""

  def into(axis):
    return lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, row, axis)

  row_axis = 0 if isinstance(cache.k, tuple) else 1
  return Cache(
    k=jax.tree.map(into(row_axis), cache.k, one.k),
    v=jax.tree.map(into(row_axis), cache.v, one.v),
    positions=into(0)(cache.positions, one.positions),
    length=into(0)(cache.length, one.length),
  )


def grown(cache: Cache, slots: int) -> Cache:
  """The cache with `slots` slots for each row. Raises ValueError for fewer than it has."""
  unstacked = isinstance(cache.k, tuple)
  key_axis = 3  # of columns [B, K, H, S] and of rows [L, B, K, S, H] alike
  value_axis = 2 if unstacked else 3
  return Cache(
    k=jax.tree.map(lambda x: pad(x, slots, axis=key_axis, what='cache'), cache.k),
    v=jax.tree.map(lambda x: pad(x, slots, axis=value_axis, what='cache'), cache.v),
    positions=pad(cache.positions, slots, axis=1, fill=-1, what='cache'),
    length=cache.length,
  )


def unstacked(cache: Cache) -> Cache:
  """The cache as unstacked blocks want it: a tuple over layers, keys in columns."""
  if isinstance(cache.k, tuple):
    return cache
  columns = jnp.swapaxes(cache.k, -1, -2)
  return cache.replace(k=tuple(columns), v=tuple(cache.v))
