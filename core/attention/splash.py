"""Splash attention, the Pallas kernel for TPU that JAX carries.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import math

import jax
import jax.numpy as jnp

from core.attention import sizes
from core.attention.keys import How, joined
from core.mesh import partition
from core.padding import pad


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """TPU flash attention.

  Causality is by index, which is the order of positions inside a segment and over the runs. The runs of a layer are
  concatenated: a copy of one layer's keys instead of the scores. Lengths are padded to the kernel's tiles of 128 with
  tokens of segment 0. Under a mesh each device computes its own rows and heads over the whole length.
  """
  rows, length, _, _ = q.shape
  k = joined([keys.k for keys in runs], 2)
  v = joined([keys.v for keys in runs], 2)
  ids = [_segments(keys.positions, keys.segments, (rows, keys.v.shape[2])) for keys in runs]
  key_ids = joined(ids, 1)
  query_ids = _segments(positions, segments, (rows, length))
  before = k.shape[2] - length  # keys of earlier tokens

  def local(q, k, v, query_ids, key_ids, sinks):
    shape = (q.shape[1], k.shape[2])
    run = _splash_kernel(heads=q.shape[2], shape=shape, before=before, sinks=sinks, how=how)
    queries = jnp.swapaxes(q, 1, 2) / how.divisor
    out = jax.vmap(run)(queries, k, v, query_ids, key_ids)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype)

  arrays = (
    _to_tiles(q, 1),
    _to_tiles(k, 2),
    _to_tiles(v, 2),
    _to_tiles(query_ids, 1),
    _to_tiles(key_ids, 1),
  )
  return _per_device(local, *arrays, sinks, how.rules)[:, :length]


def _to_tiles(x: jax.Array, axis: int) -> jax.Array:
  """x padded along `axis` to a multiple of the kernel's tile."""
  tiles = -(-x.shape[axis] // sizes.LANES)
  return pad(x, tiles * sizes.LANES, axis=axis)


def _largest_block(length: int) -> int:
  """The largest of 4, 3, 2 or 1 tiles that divides a length of whole tiles."""
  for tiles in (4, 3, 2):
    if length % (tiles * sizes.LANES) == 0:
      return tiles * sizes.LANES
  return sizes.LANES


def _block_sizes(shape: tuple[int, int]):
  """The kernel's blocks of (queries, keys): the largest of 4, 3, 2 or 1 tiles that divides each length."""
  from jax.experimental.pallas.ops.tpu import splash_attention as kernels

  bq, bk = map(_largest_block, shape)
  return kernels.BlockSizes(
    block_q=bq,
    block_kv=bk,
    block_kv_compute=bk,
    block_q_dkv=bq,
    block_kv_dkv=bk,
    block_kv_dkv_compute=bk,
    block_q_dq=bq,
    block_kv_dq=bk,
  )


def _splash_kernel(*, heads: int, shape: tuple[int, int], before: int, sinks, how: How):
  """The Pallas kernel for one row: (q [N, T, H], k, v [K, S, H], segment ids [T], [S]) -> [N, T, H]."""
  from jax.experimental.pallas.ops.tpu import splash_attention as kernels

  if not how.causal:
    mask = kernels.FullMask(shape)
  elif how.window is None:
    mask = kernels.CausalMask(shape, before)
  else:
    mask = kernels.LocalMask(shape, (how.window - 1, 0), before)
  masks = kernels.MultiHeadMask([mask] * heads)
  kernel = kernels.make_splash_mha_single_device(masks, block_sizes=_block_sizes(shape))
  sinks = None if sinks is None else sinks.astype(jnp.float32)

  def run(q, k, v, query_ids, key_ids):
    return kernel(q, k, v, segment_ids=kernels.SegmentIds(query_ids, key_ids), sinks=sinks)

  return run


def _segments(positions, segments, shape) -> jax.Array:
  """int32 of `shape`: a segment for every token, 0 at padding."""
  if segments is None:
    segments = jnp.ones(shape, jnp.int32)
  if positions is None:
    return segments
  return jnp.where(positions < 0, 0, segments)


def _per_device(local, q, k, v, query_ids, key_ids, sinks, rules):
  """`local(...)` on each device's rows and heads; key heads follow their query heads."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q, k, v, query_ids, key_ids, sinks)
  queries = partition(q.shape, ('batch', None, 'attn_heads', None), mesh, rules)
  rows, _, heads, _ = queries
  shards = math.prod(mesh.shape[axis] for axis in heads or ())
  copies = key_copies(k.shape[1], q.shape[2], shards)
  if copies > 1:
    k = jnp.repeat(k, copies, 1)
    v = jnp.repeat(v, copies, 1)
  keys = jax.P(rows, heads, None, None)
  ids = jax.P(rows, None)
  specs = (queries, keys, keys, ids, ids, None if sinks is None else jax.P(heads))
  run = jax.shard_map(local, in_specs=specs, out_specs=queries, check_vma=False)
  return run(q, k, v, query_ids, key_ids, sinks)


def key_copies(key_heads: int, query_heads: int, shards: int) -> int:
  """The fewest copies of each key head with which every shard of the query heads holds its own keys."""
  for copies in range(1, query_heads // key_heads + 1):
    heads = key_heads * copies
    if heads % shards == 0 and query_heads % heads == 0:
      return copies
  raise ValueError(f'{query_heads} query heads on {key_heads} key heads do not divide over {shards} devices')


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  if runs[0].subtrees is not None:
    return 'splash has segment ids and no packed trees'
  if bias is not None:
    return 'splash has no additive bias'
  if q.shape[1] != runs[-1].v.shape[2] or any(keys.columns for keys in runs):
    return 'splash needs the keys of its own tokens as the last run, and every run in rows'
  if len(runs) > 1 and q.shape[1] <= 2 * sizes.QUERY_BLOCK:
    return f'splash copies the runs into one; with {q.shape[1]} queries that costs more than it saves'
  if len(runs) > 1 and how.window is not None:
    return 'splash measures a window by index, and a cache may have gaps'
  if q.shape[-1] % 64:
    return f'splash needs a head size that is a multiple of 64, not {q.shape[-1]}'
  return None
