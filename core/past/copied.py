"""Pages of sequences copied into a contiguous cache, and back: attention then reads rows, without a gather.

P pages   K key heads   S page size   H head size   R rows   T pages of a row
"""

import jax
import jax.numpy as jnp

from core.past.cache import Cache


def gathered(k: tuple, v: tuple, table: jax.Array, length: jax.Array) -> Cache:
  """The first `length` tokens, int32 [R], of rows whose pages `table` lists, int32 [R, T], in T · S slots a row.

  k, v: pools [P, K, H, S] and [P, K, S, H] of each layer. Slots beyond a row's length are 0.
  """
  page_size = v[0].shape[2]
  capacity = table.shape[1] * page_size
  slot = jnp.arange(capacity, dtype=jnp.int32)
  is_held = slot < length[:, None]
  of_column = is_held[:, None, None]
  of_line = is_held[:, None, :, None]

  def columns(pool):
    pages = pool[table]
    by_head = jnp.moveaxis(pages, 1, 3)  # [R, K, H, T, S]
    rows, heads, head_size, _, _ = by_head.shape
    merged = by_head.reshape(rows, heads, head_size, -1)
    return jnp.where(of_column, merged, 0)

  def lines(pool):
    pages = pool[table]
    by_head = jnp.swapaxes(pages, 1, 2)  # [R, K, T, S, H]
    rows, heads, _, _, head_size = by_head.shape
    merged = by_head.reshape(rows, heads, -1, head_size)
    return jnp.where(of_line, merged, 0)

  return Cache(
    k=tuple(map(columns, k)),
    v=tuple(map(lines, v)),
    positions=jnp.where(is_held, slot, -1),
    length=length,
  )


def returned(k: tuple, v: tuple, cache: Cache, page: jax.Array, first: jax.Array) -> tuple[tuple, tuple]:
  """The pools with pages of a cache as `gathered` makes it written back.

  first: int32 [R], the number of each row's first page to write; page: int32 [R, N], where it and those after it go, P
  where nothing is to be written.
  """
  page_size = v[0].shape[2]
  held = cache.capacity // page_size
  row = jnp.arange(len(first))[:, None]
  ahead = jnp.arange(page.shape[1])
  depth = first[:, None] + ahead
  depth = jnp.minimum(depth, held - 1)

  def of_columns(pool, x):
    rows, heads, head_size, _ = x.shape
    pages = x.reshape(rows, heads, head_size, held, page_size)
    by_page = jnp.moveaxis(pages, 3, 1)
    return pool.at[page].set(by_page[row, depth], mode='drop')

  def of_lines(pool, x):
    rows, heads, _, head_size = x.shape
    pages = x.reshape(rows, heads, held, page_size, head_size)
    by_page = jnp.moveaxis(pages, 2, 1)
    return pool.at[page].set(by_page[row, depth], mode='drop')

  new_k = tuple(map(of_columns, k, cache.k))
  new_v = tuple(map(of_lines, v, cache.v))
  return new_k, new_v
