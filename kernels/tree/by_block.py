"""The items of a plan that each block of query rows reads, computed on the device.

R rows   G query heads of a key head   B blocks   C rows of a block   W items
"""

import jax
import jax.numpy as jnp
from flax import struct

from kernels.tree.plan import Plan


@struct.dataclass
class Items:
  """The items of each block, in the order of the plan, int32 [B, W]; the first `count` [B] of a block are read.

  page, start: as in `Plan`. begin, end: the query rows of the block that read the item are begin to end - 1.
  low, high: no row reads tokens of the page outside low to high - 1. lengths: int32 [B, Q], tokens that each query row
  reads.
  """

  page: jax.Array
  start: jax.Array
  begin: jax.Array
  end: jax.Array
  low: jax.Array
  high: jax.Array
  count: jax.Array
  lengths: jax.Array


def items(plan: Plan, groups: int, *, query_rows: int, page_size: int, window: int | None) -> Items:
  """The items of each block of `query_rows` query rows that hold whole rows of `groups` query rows.

  Items that no row sees are left out.
  """
  plan = jax.tree.map(jnp.asarray, plan)
  rows = query_rows // groups
  by_place = plan.lengths[plan.order]
  lengths = _by_block(by_place, rows)
  blocks, _ = lengths.shape
  place = rows * jnp.arange(blocks)[:, None]  # of each block's first row
  begin = jnp.clip(plan.first - place, 0, rows)  # [B, W]
  after = plan.first + plan.readers
  end = jnp.clip(after - place, 0, rows)
  low, high = _seen(begin, end, lengths, plan.start, page_size=page_size, window=window)
  item = jnp.arange(plan.first.shape[0])
  is_listed = item < plan.ends[-1]
  has_readers = begin < end
  has_tokens = low < high
  reads = is_listed & has_readers & has_tokens
  index = _compact(reads)

  def taken(x):
    by_block = jnp.broadcast_to(x, reads.shape)
    return jnp.take_along_axis(by_block, index, 1)

  per_query_row = jnp.repeat(lengths, groups, 1)
  padding = query_rows - rows * groups
  return Items(
    page=taken(plan.page),
    start=taken(plan.start),
    begin=taken(begin) * groups,
    end=taken(end) * groups,
    low=taken(low),
    high=taken(high),
    count=reads.sum(1, dtype=jnp.int32),
    lengths=jnp.pad(per_query_row, ((0, 0), (0, padding))),
  )


def _by_block(lengths: jax.Array, rows: int) -> jax.Array:
  """[R] as [B, C], padded with rows that read nothing."""
  missing = -lengths.shape[0] % rows
  padded = jnp.pad(lengths, (0, missing))
  return padded.reshape(-1, rows)


def _seen(begin, end, lengths, start, *, page_size: int, window: int | None) -> tuple[jax.Array, jax.Array]:
  """The first token of each page that a row of the block reads, and the one after the last, int32 [B, W] each."""
  row = jnp.arange(lengths.shape[1])
  is_after = row >= begin[..., None]
  is_before = row < end[..., None]
  reads = is_after & is_before  # [B, W, C]
  by_row = lengths[:, None]
  longest = jnp.where(reads, by_row, 0).max(-1)
  high = jnp.clip(longest - start, 0, page_size)
  if window is None:
    return jnp.zeros_like(high), high
  unbounded = jnp.iinfo(jnp.int32).max
  shortest = jnp.where(reads, by_row, unbounded).min(-1)
  low = jnp.clip(shortest - window - start, 0, page_size)
  return low, high


def _compact(reads: jax.Array) -> jax.Array:
  """The indices of the true entries of each line of [B, W], in order; what follows them is undefined."""
  blocks, items = reads.shape
  before = jnp.cumsum(reads, 1) - 1
  place = jnp.where(reads, before, items)  # out of range, so it is dropped
  line = jnp.arange(blocks)[:, None]
  index = jnp.arange(items, dtype=jnp.int32)
  empty = jnp.zeros(reads.shape, jnp.int32)
  return empty.at[line, place].set(index, mode='drop')
