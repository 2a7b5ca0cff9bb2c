"""The paged key-value cache: pools of pages that rows share, read through a plan.

P pages   K key heads   S page size   H head size   R rows, one token each
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import constrain, sharding
from kernels import tree_attention
from kernels.tree.plan import Plan

AXES = (None, 'kv_heads', None, None)  # of a pool


def by_token(pool_k, pool_v, k, v, page, offset) -> tuple[jax.Array, jax.Array]:
  """The pools with k, v [R, K, H] of R tokens written, each to `offset` of its `page`; a page out of range is none."""
  return (pool_k.at[page, :, :, offset].set(k, mode='drop'), pool_v.at[page, :, offset].set(v, mode='drop'))


def by_page(pool_k, pool_v, k, v, page, offset) -> tuple[jax.Array, jax.Array]:
  """As `by_token`, a whole page a token: one that several tokens go to is made alike for each of them.

  For TPU, where XLA keeps an array to which it writes single tokens in a layout of its own, and copies all of it
  between every write and read.
  """
  rows, (pages, _, size, _) = k.shape[0], pool_v.shape
  table = jnp.full((pages, size), rows).at[page, offset].set(jnp.arange(rows), mode='drop')
  # A page is read when its token is there, or the pages of all layers would be read at once, and held.
  there, k, v = jax.lax.optimization_barrier((jnp.minimum(page, pages - 1), k, v))
  writer = table[there]  # [R, S]: which token comes to each place of the page
  here = (writer < rows)[:, None, :, None]
  fresh = lambda new: jnp.swapaxes(new[jnp.minimum(writer, rows - 1)], 1, 2)  # [R, K, S, H]
  columns = jnp.where(jnp.swapaxes(here, 2, 3), jnp.swapaxes(fresh(k), 2, 3), pool_k[there])
  lines = jnp.where(here, fresh(v), pool_v[there])
  return pool_k.at[page].set(columns, mode='drop'), pool_v.at[page].set(lines, mode='drop')


@struct.dataclass
class Layer:
  """One layer's pools beside what all layers share."""

  k: jax.Array  # [P, K, H, S]: keys in columns multiply twice as fast on CPU
  v: jax.Array  # [P, K, S, H]
  plan: Plan
  page: jax.Array
  offset: jax.Array

  def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, *, window, sinks) -> tuple[jax.Array, tuple]:
    """Writes k, v [R, K, 1, H], then attends from q [R, 1, N, H]: (output like q, the pools as written).

    Writing comes first: a buffer that is read before it is written again is copied by XLA at every step.
    """
    new = k[:, :, 0].astype(self.k.dtype), v[:, :, 0].astype(self.v.dtype)
    k, v = jax.lax.platform_dependent(self.k, self.v, *new, self.page, self.offset, tpu=by_page, default=by_token)
    k, v = constrain(k, AXES), constrain(v, AXES)
    out, _ = tree_attention(q[:, 0], k, v, self.plan, window=window, sinks=sinks)
    return out[:, None], (k, v)


@struct.dataclass
class Pages:
  """Pools and where this call's tokens go: row r's to `offset[r]` of `page[r]`, nowhere when that is P.

  Every row is one token, be it of a decoding sequence or of a prompt; `plan.lengths` says how many tokens each reads,
  its own included, so tokens of one prompt beside each other are causal. k, v: a tuple over (unstacked) layers.
  """

  k: Any
  v: Any
  plan: Plan
  page: jax.Array  # int32 [R]
  offset: jax.Array  # int32 [R]

  def layers(self) -> tuple[Layer, ...]:
    """What `core.params.walk` hands to each layer."""
    return tuple(Layer(k, v, self.plan, self.page, self.offset) for k, v in zip(self.k, self.v))


def abstract(config, pages: int, page_size: int, dtype, mesh: jax.sharding.Mesh) -> tuple[tuple, tuple]:
  """Pools (k, v) of a decoder `config` (depth, kv_heads, head_dim) as shapes, key heads spread as `mesh` allows."""
  columns = (pages, config.kv_heads, config.head_dim, page_size)
  rows = (pages, config.kv_heads, page_size, config.head_dim)
  pool = lambda shape: (jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(shape, AXES, mesh)),) * config.depth
  return pool(columns), pool(rows)


def pools(config, pages: int, page_size: int, dtype, mesh: jax.sharding.Mesh) -> tuple[tuple, tuple]:
  """Empty pools, as `abstract` describes them."""
  want = abstract(config, pages, page_size, dtype, mesh)
  places = jax.tree.map(lambda x: x.sharding, want)
  return jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), want), out_shardings=places)()
