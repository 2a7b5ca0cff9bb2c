"""Pages of sequences as a contiguous cache for a while, and back: attention then reads rows, and gathers nothing.

P pages   K key heads   S page size   H head size   R rows   T pages of a row
"""

import jax
import jax.numpy as jnp

from core.past.cache import Cache


def gathered(k: tuple, v: tuple, table: jax.Array, length: jax.Array) -> Cache:
  """The first `length` tokens, int32 [R], of rows whose pages `table` lists, int32 [R, T], in T · S slots a row.

  k, v: pools [P, K, H, S] and [P, K, S, H] of each layer. Slots beyond a row's length are 0, whatever its pages hold.
  """
  size = v[0].shape[2]
  slot = jnp.arange(table.shape[1] * size, dtype=jnp.int32)
  is_held = slot < length[:, None]

  def columns(pool):
    rows = jnp.moveaxis(pool[table], 1, 3)  # [R, K, H, T, S]
    merged = rows.reshape(*rows.shape[:3], -1)
    return jnp.where(is_held[:, None, None], merged, 0)

  def lines(pool):
    rows = jnp.swapaxes(pool[table], 1, 2)  # [R, K, T, S, H]
    merged = rows.reshape(*rows.shape[:2], -1, rows.shape[4])
    return jnp.where(is_held[:, None, :, None], merged, 0)

  positions = jnp.where(is_held, slot, -1)
  return Cache(tuple(map(columns, k)), tuple(map(lines, v)), positions, length)


def returned(k: tuple, v: tuple, cache: Cache, page: jax.Array, first: jax.Array) -> tuple[tuple, tuple]:
  """The pools with pages of a cache as `gathered` makes it: row r's from page number `first[r]` on are `page[r]`.

  first: int32 [R]; page: int32 [R, N], P where nothing is to be written.
  """
  size = v[0].shape[2]
  held = cache.capacity // size
  rows = jnp.arange(len(first))[:, None]
  depth = jnp.minimum(first[:, None] + jnp.arange(page.shape[1]), held - 1)

  def of_columns(pool, x):
    pages = x.reshape(*x.shape[:3], held, size)
    return pool.at[page].set(jnp.moveaxis(pages, 3, 1)[rows, depth], mode='drop')

  def of_lines(pool, x):
    pages = x.reshape(*x.shape[:2], held, size, -1)
    return pool.at[page].set(jnp.swapaxes(pages, 1, 2)[rows, depth], mode='drop')

  return tuple(map(of_columns, k, cache.k)), tuple(map(of_lines, v, cache.v))
