"""Softmax attention for every model: one function, several implementations.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size

Keys come as one or more runs (a cache, then the new tokens), so decoding never concatenates to a cache. A query sees
a key if the key is not padding (position >= 0), is of the same segment and, when causal, is not later than the query
and inside the window. In packed trees (`core.subtrees`) it sees the keys of its own path. Implementations: 'reference'
(plain jnp: the definition), 'chunked' (the same in blocks of queries, linear memory), 'blocked' (packed trees: each
block of queries reads the blocks of keys that a plan lists), 'cudnn' (jax.nn on GPU), 'splash' (Pallas on TPU).
"""

import dataclasses
import importlib.util
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from core import subtrees as trees
from core.mesh import RULES, partition
from core.padding import pad
from core.subtrees import Subtrees
from core.tap import Tap
from kernels import dispatch
from kernels.dispatch import Implementation

MASKED = -1e30  # finite, so a row that sees nothing does not become NaN
QUERY_BLOCK = 512
LANES = 128  # of a TPU vector register


@struct.dataclass
class Keys:
  """A run of keys and values, [B, K, S, H]; `positions` int32 [B, S], negative at padding, None without padding.

  `segments` int32 [B, S] separates packed samples (0 is padding). `subtrees`: the run is packed trees, and the queries
  are its own tokens. `columns`: k is [B, K, H, S].
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array | None = None
  segments: jax.Array | None = None
  subtrees: Subtrees | None = None
  columns: bool = struct.field(pytree_node=False, default=False)

  def repeat(self, times: int) -> 'Keys':
    """Each row repeated `times` times, the copies adjacent."""
    if times == 1:
      return self
    return jax.tree.map(lambda x: jnp.repeat(x, times, 0), self)


@dataclasses.dataclass(frozen=True)
class _How:
  """The static part of a call."""

  causal: bool
  window: int | None
  divisor: float  # of the scores
  rules: dict


def attention(
  q: jax.Array,
  runs: Sequence[Keys],
  *,
  positions: jax.Array | None = None,
  segments: jax.Array | None = None,
  causal: bool = True,
  window: int | None = None,
  sinks: jax.Array | None = None,
  bias: jax.Array | None = None,
  scale: float | None = None,
  implementation: str | None = None,
  rules=RULES,
  tap: Tap | None = None,
) -> jax.Array:
  """Softmax attention of q [B, T, N, H] over runs of `Keys`; returns [B, T, N, H] in q's dtype.

  positions: int32 [B, T] of the queries, increasing along T inside a segment; needed when causal. segments: int32
  [B, T]; needs positions, and segments of each run. causal=False: a query sees every key that is not padding.
  window: a query sees the last `window` keys, its own included. sinks: [N], one extra logit a head, which takes part
  in the softmax and is dropped (GPT-OSS). bias: [B or 1, N, T, S], added to the scores. scale: of the scores; 1/√H by
  default. implementation: a name; None picks by platform when the program is lowered. tap: sees scores and pattern
  (`core.tap`) if it asks for them, which takes the reference on every platform.
  Raises ValueError for arguments that contradict each other, a tap that asks for the pattern of another named
  implementation among them, and NotImplementedError if the named implementation cannot
  compute the call.
  """
  _check(runs, positions, segments, causal=causal, window=window, bias=bias)
  divisor = math.sqrt(q.shape[-1]) if scale is None else 1 / scale
  how = _How(causal=causal, window=window, divisor=divisor, rules=rules)
  default = _default(q, runs)
  arrays = (q, tuple(runs), positions, segments, sinks, bias)
  if tap is not None and tap.asks_attention(_pattern_shape(q, runs)):
    if implementation not in (None, 'reference'):
      raise ValueError(f"scores and pattern: attention {implementation!r} does not give them; use None or 'reference'")
    return _reference(*arrays, how=how, tap=tap)
  return TABLE.call(*arrays, implementation=implementation, default=default, how=how)


def _default(q: jax.Array, runs: Sequence[Keys]) -> str:
  """The implementation where the platform has none of its own."""
  if runs[0].subtrees is not None and runs[0].subtrees.blocks is not None:
    return 'blocked'
  return 'chunked' if q.shape[1] > 2 * QUERY_BLOCK else 'reference'


def _pattern_shape(q: jax.Array, runs: Sequence[Keys]) -> tuple[int, ...]:
  """[B, N, T, S] over all runs."""
  rows, time, heads, _ = q.shape
  return (rows, heads, time, sum(keys.v.shape[2] for keys in runs))


def _check(runs, positions, segments, *, causal, window, bias) -> None:
  if causal and (positions is None or any(keys.positions is None for keys in runs)):
    raise ValueError('causal attention needs positions of queries and keys; pass causal=False for bidirectional')
  if window is not None and not causal:
    raise ValueError(f'window={window} needs causal attention: a window ends at the query')
  if segments is not None and positions is None:
    raise ValueError('segments need positions: those of each packed sample start at 0, and are -1 at padding')
  if segments is not None and any(keys.segments is None for keys in runs):
    raise ValueError('segments of the queries need segments of every run of keys')
  if bias is not None and len(runs) != 1:
    raise ValueError(f'an additive bias needs one run of keys, not {len(runs)}')
  if any(keys.subtrees is not None for keys in runs):
    _check_trees(runs, segments, causal=causal, bias=bias)


def _check_trees(runs, segments, *, causal, bias) -> None:
  if len(runs) != 1 or not causal:
    raise ValueError(f'packed trees: {len(runs)} runs of keys, causal={causal}; expected one run and causal=True')
  if segments is not None or bias is not None:
    raise ValueError('packed trees take neither segments, which are trees of one node, nor an additive bias')


def visible(positions, segments, keys: Keys, how: _How, index=None) -> jax.Array | None:
  """Bool [B, T or 1, S], the keys each query sees; None if it sees all.

  index: int32 [B or 1, T], of the queries among packed trees, where it is not 0..T-1.
  """
  if keys.positions is None:
    return None
  key_positions = keys.positions[:, None, :]
  sees = key_positions >= 0
  if how.causal:
    sees = sees & (key_positions <= positions[:, :, None])
  if how.window is not None:
    distance = positions[:, :, None] - key_positions
    sees = sees & (distance < how.window)
  if segments is not None:
    sees = sees & (segments[:, :, None] == keys.segments[:, None, :])
  if keys.subtrees is not None:
    index = jnp.arange(positions.shape[1])[None] if index is None else index
    sees = sees & keys.subtrees.visible(index)
  return sees


def _join(parts: list[jax.Array], axis: int) -> jax.Array:
  """The parts concatenated; a single one is not copied."""
  return jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0]


def _scores(grouped, keys: Keys, mask, bias, divisor: float):
  """Masked float32 scores [B, K, G, T, S] of the grouped queries [B, K, G, T, H] against one run of keys."""
  dims = 'bkhs' if keys.columns else 'bksh'
  scores = jnp.einsum(f'bkgth,{dims}->bkgts', grouped, keys.k, preferred_element_type=jnp.float32)
  scores = scores / divisor
  if bias is not None:
    rows, _, t, s = bias.shape
    scores = scores + bias.astype(jnp.float32).reshape(rows, grouped.shape[1], -1, t, s)
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, MASKED)
  return scores


def _tapped(tap: Tap, site: str, x: jax.Array) -> jax.Array:
  """Grouped scores [B, K, G, T, S] through the tap, which sees [B, N, T, S]."""
  rows, _, _, time, length = x.shape
  return tap(site, x.reshape(rows, -1, time, length)).reshape(x.shape)


def _reference(q, runs, positions, segments, sinks, bias, *, how: _How, tap: Tap | None = None, index=None):
  b, t, n, h = q.shape
  key_heads = runs[0].k.shape[1]
  grouped = jnp.moveaxis(q.reshape(b, t, key_heads, n // key_heads, h), 1, 3)
  scores = []
  for keys in runs:
    mask = visible(positions, segments, keys, how, index)
    scores.append(_scores(grouped, keys, mask, bias, how.divisor))
  if tap is not None:
    scores = [_tapped(tap, 'scores', _join(scores, -1))]
  if sinks is not None:
    column = sinks.astype(jnp.float32).reshape(1, key_heads, -1, 1, 1)
    scores.append(jnp.broadcast_to(column, (*scores[0].shape[:-1], 1)))
  # One softmax over all runs. A sink's column takes its share of the probability but has no value.
  weights = jax.nn.softmax(_join(scores, -1), -1)
  if tap is not None:
    length = sum(keys.v.shape[2] for keys in runs)
    weights = _tapped(tap, 'pattern', weights[..., :length])
  weights = weights.astype(q.dtype)
  out = 0
  start = 0
  for keys in runs:
    stop = start + keys.v.shape[2]
    out = out + jnp.einsum('bkgts,bksh->bkgth', weights[..., start:stop], keys.v)
    start = stop
  return jnp.moveaxis(out, 3, 1).reshape(b, t, n, h)


def _chunked(q, runs, positions, segments, sinks, bias, *, how: _How):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  t = q.shape[1]
  blocks = -(-t // QUERY_BLOCK)
  length = blocks * QUERY_BLOCK

  def split(x, *, axis=1, fill=0):
    if x is None:
      return None
    x = pad(jnp.asarray(x), length, axis=axis, fill=fill)
    before = x.shape[:axis]
    after = x.shape[axis + 1 :]
    x = x.reshape(*before, blocks, QUERY_BLOCK, *after)
    return jnp.moveaxis(x, axis, 0)

  @jax.checkpoint
  def block(args):
    q, positions, segments, bias, index = args
    return _reference(q, runs, positions, segments, sinks, bias, how=how, index=index)

  index = split(jnp.arange(t)[None])
  out = jax.lax.map(block, (split(q), split(positions, fill=-1), split(segments), split(bias, axis=2), index))
  rows, _, *heads = q.shape
  out = jnp.moveaxis(out, 0, 1).reshape(rows, length, *heads)
  return out[:, :t]


def _blocked(q, runs, positions, segments, sinks, bias, *, how: _How):
  """Packed trees: each block of queries attends densely to the blocks of keys that the plan lists for it.

  A block is recomputed in the backward pass. Scores take O(BLOCK · M · BLOCK) at a time, not O(T²).
  """
  (keys,) = runs
  k, v = trees.in_blocks(keys.k, 2), trees.in_blocks(keys.v, 2)
  key_positions = trees.in_blocks(keys.positions, 1)
  until = trees.in_blocks(keys.subtrees.until, 1)

  @jax.checkpoint
  def block(args):
    q, positions, number, listed = args
    within = jnp.arange(trees.BLOCK)
    index = number * trees.BLOCK + within
    places = (listed[..., None] * trees.BLOCK + within).reshape(len(listed), -1)
    seen_until = jnp.where(places < 0, 0, trees.flat(trees.gather(until, listed), 1))
    near = Keys(
      trees.flat(trees.gather(k, listed), 2),
      trees.flat(trees.gather(v, listed), 2),
      trees.flat(trees.gather(key_positions, listed), 1),
      subtrees=Subtrees(seen_until, places=places),
    )
    return _reference(q, [near], positions, None, sinks, None, how=how, index=index[None])

  listed = jnp.moveaxis(jnp.asarray(keys.subtrees.blocks), 1, 0)
  numbers = jnp.arange(len(listed))
  out = jax.lax.map(block, (trees.in_blocks(q, 1), trees.in_blocks(positions, 1), numbers, listed))
  return trees.flat(out, 1)[:, : q.shape[1]]


def _cudnn(q, runs, positions, segments, sinks, bias, *, how: _How):
  (keys,) = runs
  mask = visible(positions, segments, keys, how)
  if mask is not None:
    mask = mask[:, None]
  k = jnp.swapaxes(keys.k, 1, 2)
  v = jnp.swapaxes(keys.v, 1, 2)
  return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1 / how.divisor, implementation='cudnn')


def _splash(q, runs, positions, segments, sinks, bias, *, how: _How):
  """TPU flash attention.

  Causality is by index, which is the order of positions inside a segment and over the runs. The runs of a layer are
  concatenated: a copy of one layer's keys instead of the scores. Lengths are padded to the kernel's tiles of 128 with
  tokens of segment 0. Under a mesh each device computes its own rows and heads over the whole length.
  """
  rows, length, _, _ = q.shape
  k = _join([keys.k for keys in runs], 2)
  v = _join([keys.v for keys in runs], 2)
  key_ids = _join([_segments(keys.positions, keys.segments, (rows, keys.v.shape[2])) for keys in runs], 1)
  query_ids = _segments(positions, segments, (rows, length))
  before = k.shape[2] - length  # keys of earlier tokens

  def local(q, k, v, query_ids, key_ids, sinks):
    shape = (q.shape[1], k.shape[2])
    run = _splash_kernel(heads=q.shape[2], shape=shape, before=before, sinks=sinks, how=how)
    queries = jnp.swapaxes(q, 1, 2) / how.divisor
    out = jax.vmap(run)(queries, k, v, query_ids, key_ids)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype)

  arrays = (_to_tiles(q, 1), _to_tiles(k, 2), _to_tiles(v, 2), _to_tiles(query_ids, 1), _to_tiles(key_ids, 1))
  return _per_device(local, *arrays, sinks, how.rules)[:, :length]


def _to_tiles(x: jax.Array, axis: int) -> jax.Array:
  """x padded along `axis` to a multiple of the kernel's tile."""
  tiles = -(-x.shape[axis] // LANES)
  return pad(x, tiles * LANES, axis=axis)


def _block_sizes(shape: tuple[int, int]):
  """The kernel's blocks of (queries, keys): the largest of 4, 3, 2 or 1 tiles that divides each length."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  bq, bk = (next(tiles * LANES for tiles in (4, 3, 2, 1) if size % (tiles * LANES) == 0) for size in shape)
  return splash.BlockSizes(
    block_q=bq,
    block_kv=bk,
    block_kv_compute=bk,
    block_q_dkv=bq,
    block_kv_dkv=bk,
    block_kv_dkv_compute=bk,
    block_q_dq=bq,
    block_kv_dq=bk,
  )


def _splash_kernel(*, heads: int, shape: tuple[int, int], before: int, sinks, how: _How):
  """The Pallas kernel for one row: (q [N, T, H], k, v [K, S, H], segment ids [T], [S]) -> [N, T, H]."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  if not how.causal:
    mask = splash.FullMask(shape)
  elif how.window is None:
    mask = splash.CausalMask(shape, before)
  else:
    mask = splash.LocalMask(shape, (how.window - 1, 0), before)
  masks = splash.MultiHeadMask([mask] * heads)
  kernel = splash.make_splash_mha_single_device(masks, block_sizes=_block_sizes(shape))
  sinks = None if sinks is None else sinks.astype(jnp.float32)

  def run(q, k, v, query_ids, key_ids):
    return kernel(q, k, v, segment_ids=splash.SegmentIds(query_ids, key_ids), sinks=sinks)

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


def _refuse_blocked(q, runs, positions, segments, sinks, bias, *, how: _How) -> str | None:
  if runs[0].subtrees is None or runs[0].subtrees.blocks is None:
    return 'blocked needs packed trees with a plan of blocks, `core.subtrees.plan`'
  if runs[0].columns:
    return 'blocked needs keys in rows'
  return None


def _refuse_splash(q, runs, positions, segments, sinks, bias, *, how: _How) -> str | None:
  if runs[0].subtrees is not None:
    return 'splash has segment ids and no packed trees'
  if bias is not None:
    return 'splash has no additive bias'
  if q.shape[1] != runs[-1].v.shape[2] or any(keys.columns for keys in runs):
    return 'splash needs the keys of its own tokens as the last run, and every run in rows'
  if len(runs) > 1 and q.shape[1] <= 2 * QUERY_BLOCK:
    return f'splash copies the runs into one; with {q.shape[1]} queries that costs more than it saves'
  if len(runs) > 1 and how.window is not None:
    return 'splash measures a window by index, and a cache may have gaps'
  if q.shape[-1] % 64:
    return f'splash needs a head size that is a multiple of 64, not {q.shape[-1]}'
  return None


def _refuse_cudnn(q, runs, positions, segments, sinks, bias, *, how: _How) -> str | None:
  plugins = [importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13)]
  if not any(plugins):
    return 'tracing asks cudnn for its version, and no CUDA plugin of JAX is installed'
  if runs[0].subtrees is not None:
    return 'cudnn would take a dense mask of packed trees'
  if len(runs) != 1 or runs[0].columns:
    return 'cudnn attends to one run of keys in rows, not to a cache'
  if sinks is not None or bias is not None:
    return 'cudnn is used without sinks and additive bias'
  head_dim = q.shape[-1]
  if q.dtype not in (jnp.bfloat16, jnp.float16) or head_dim % 8 or head_dim > 128:
    return (
      f'cudnn needs bfloat16 or float16 and a head size up to 128 that is a multiple of 8, not {q.dtype} and {head_dim}'
    )
  return None


TABLE = dispatch.Table(
  'attention',
  {
    'reference': Implementation(_reference),
    'chunked': Implementation(_chunked),
    'blocked': Implementation(_blocked, refuse=_refuse_blocked),
    'cudnn': Implementation(_cudnn, platform='cuda', refuse=_refuse_cudnn),
    'splash': Implementation(_splash, platform='tpu', refuse=_refuse_splash),
  },
)
