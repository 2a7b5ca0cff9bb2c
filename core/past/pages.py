"""The paged key-value cache: pools of pages that sequences share, read through a plan.

P pages   K key heads   S page size   H head size   R rows, one token each
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys
from core.mesh import RULES, constrain, partitioning, sharding
from core.past.base import Call
from core.tap import Tap
from kernels import tree_attention
from kernels.tree.plan import Plan

AXES = (None, 'kv_heads', None, None)  # of a pool


def by_token(pool_k, pool_v, k, v, page, offset) -> tuple[jax.Array, jax.Array]:
  """Writes k, v [R, K, H] to `offset` of each token's `page`; a page out of range writes nothing."""
  pool_k = pool_k.at[page, :, :, offset].set(k, mode='drop')
  pool_v = pool_v.at[page, :, offset].set(v, mode='drop')
  return pool_k, pool_v


def by_page(pool_k, pool_v, k, v, page, offset) -> tuple[jax.Array, jax.Array]:
  """As `by_token`, rewriting a whole page for each token; tokens of one page all compute the same merged page.

  For TPU: XLA gives an array that is updated by single tokens a special layout, and copies all of it between every
  write and read.
  """
  rows = k.shape[0]
  pages, _, page_size, _ = pool_v.shape
  nothing = jnp.full((pages, page_size), rows)
  table = nothing.at[page, offset].set(jnp.arange(rows), mode='drop')
  # The barrier ties reading a page to its token; without it XLA reads, and keeps, the pages of all layers at once.
  source = jnp.minimum(page, pages - 1)
  source, k, v = jax.lax.optimization_barrier((source, k, v))
  writer = table[source]  # [R, S]: which token is written to each offset of the page
  is_written = writer < rows
  is_written = is_written[:, None, :, None]

  def by_offset(new):  # [R, K, H] to [R, K, S, H]
    index = jnp.minimum(writer, rows - 1)
    return jnp.swapaxes(new[index], 1, 2)

  new_columns = jnp.swapaxes(by_offset(k), 2, 3)
  is_written_column = jnp.swapaxes(is_written, 2, 3)
  columns = jnp.where(is_written_column, new_columns, pool_k[source])
  lines = jnp.where(is_written, by_offset(v), pool_v[source])
  new_k = pool_k.at[page].set(columns, mode='drop')
  new_v = pool_v.at[page].set(lines, mode='drop')
  return new_k, new_v


def _by_heads(rules, q, k, v, plan: Plan, sinks, **static) -> jax.Array:
  """`kernels.tree_attention`, [R, N, H]: on a mesh that shards nothing but key heads, each device computes its own.

  XLA does not partition kernels. Where other axes are sharded too, it partitions the portable form.
  """

  def attention(q, k, v, plan, sinks):
    out, _ = tree_attention(q, k, v, plan, sinks=sinks, **static)
    return out

  mesh = partitioning()
  if mesh is None:
    return attention(q, k, v, plan, sinks)
  key_heads = k.shape[1]
  pool = sharding(k.shape, AXES, mesh, rules)
  own_heads = pool.shard_shape(k.shape)[1]
  if own_heads * mesh.size != key_heads:
    return attention(q, k, v, plan, sinks)
  axes = pool.spec[1]
  heads = jax.P(None, axes)  # a key head's query heads are neighbours, so equal shares of both belong together
  places = (heads, heads, heads, jax.P(), jax.P(axes))
  attention = jax.shard_map(attention, in_specs=places, out_specs=heads, check_vma=False)
  return attention(q, k, v, plan, sinks)


@struct.dataclass
class Pages:
  """Pools, and where this call's tokens are written: row r's to `offset[r]` of `page[r]`, nowhere if that is P.

  Every row is one token, of a decoding sequence or of a prompt; `plan.lengths` counts the tokens that each reads,
  itself included, so attention among adjacent tokens of a prompt is causal. k, v: tuples over the (unstacked) layers,
  of pools [P, K, H, S] (columns multiply twice as fast on CPU) and [P, K, S, H].
  """

  k: Any
  v: Any
  plan: Plan
  page: jax.Array  # int32 [R]
  offset: jax.Array  # int32 [R]

  def check(self, call: Call) -> None:
    """Raises ValueError for more than one token a row, missing positions, segments, or stacked blocks."""
    accepts = call.tokens == 1 and call.has_positions and not call.has_segments and call.unstacked
    if not accepts:
      raise ValueError(
        f'a paged cache takes one token a row (got {call.tokens}), positions, no segments, and unstacked blocks'
      )

  def next_position(self, rows: int) -> int:
    """Unused: a paged call passes its positions."""
    raise ValueError('a paged cache does not know the positions of its rows')

  def layers(self, positions: jax.Array) -> tuple:
    """(k, v) of each layer."""
    return (tuple(zip(self.k, self.v)),)

  def attend(
    self,
    layer: tuple[jax.Array, jax.Array],
    q: jax.Array,
    new: Keys,
    *,
    window=None,
    sinks=None,
    implementation=None,
    rules=RULES,
    tap: Tap | None = None,
  ) -> tuple[jax.Array, tuple]:
    """As `Past.attend`: writes the new keys, then attends; keeps the pools as written.

    The write comes first because XLA copies a buffer that is read before it is written again. implementation: as in
    `kernels.tree_attention`. Raises ValueError if `tap` asks for scores or pattern, which it does not give.
    """
    pool_k, pool_v = layer
    self._check_tap(tap, q, pool_v)
    k = new.k[:, :, 0].astype(pool_k.dtype)
    v = new.v[:, :, 0].astype(pool_v.dtype)
    arrays = (pool_k, pool_v, k, v, self.page, self.offset)
    pool_k, pool_v = jax.lax.platform_dependent(*arrays, tpu=by_page, default=by_token)
    pool_k = constrain(pool_k, AXES, rules)
    pool_v = constrain(pool_v, AXES, rules)
    static = {'window': window, 'implementation': implementation}
    out = _by_heads(rules, q[:, 0], pool_k, pool_v, self.plan, sinks, **static)
    return out[:, None], (pool_k, pool_v)

  def _check_tap(self, tap: Tap | None, q: jax.Array, pool_v: jax.Array) -> None:
    if tap is None:
      return
    pages, _, page_size, _ = pool_v.shape
    rows, _, heads, _ = q.shape
    scores = (rows, heads, 1, pages * page_size)
    if tap.asks_attention(scores):
      raise ValueError('scores and pattern: attention over pages does not give them; use a contiguous cache')

  def append(self, kept: tuple, positions: jax.Array) -> 'Pages':
    """The pools as every layer wrote them."""
    k, v = kept
    return self.replace(k=k, v=v)


def abstract(config, pages: int, page_size: int, dtype, mesh: jax.sharding.Mesh, rules=RULES) -> tuple[tuple, tuple]:
  """Pools (k, v) of a decoder `config` (depth, kv_heads, head_dim) as shapes, key heads sharded as `mesh` allows."""

  def pool(*shape: int) -> tuple:
    place = sharding(shape, AXES, mesh, rules)
    one = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    return (one,) * config.depth

  heads = config.kv_heads
  size = config.head_dim
  k = pool(pages, heads, size, page_size)
  v = pool(pages, heads, page_size, size)
  return k, v


def pools(config, pages: int, page_size: int, dtype, mesh: jax.sharding.Mesh, rules=RULES) -> tuple[tuple, tuple]:
  """Empty pools, as `abstract` describes them."""
  shapes = abstract(config, pages, page_size, dtype, mesh, rules)
  places = jax.tree.map(lambda x: x.sharding, shapes)

  def empty():
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  return jax.jit(empty, out_shardings=places)()
