"""Softmax attention for every model: one function, several implementations.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size

Keys come as one or more runs (a cache, then the new tokens), so decoding never concatenates to a cache. A query sees
a key if the key is not padding (position >= 0), is of the same segment and, when causal, is not later than the query
and inside the window. Implementations: 'reference' (plain jnp: the definition), 'chunked' (the same in blocks of
queries, linear memory), 'cudnn' (jax.nn on GPU), 'splash' (Pallas on TPU).
"""

import dataclasses
import importlib.util
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES, partition
from core.padding import pad
from kernels import dispatch
from kernels.dispatch import Implementation

MASKED = -1e30  # finite, so a row that sees nothing does not become NaN
QUERY_BLOCK = 512
LANES = 128  # of a TPU vector register


@struct.dataclass
class Keys:
  """A run of keys and values, [B, K, S, H]; `positions` int32 [B, S], negative at padding, None without padding.

  `segments` int32 [B, S] separates packed samples (0 is padding). `columns`: k is [B, K, H, S].
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array | None = None
  segments: jax.Array | None = None
  columns: bool = struct.field(pytree_node=False, default=False)

  def repeat(self, times: int) -> 'Keys':
    """Each row repeated `times` times, next to each other."""
    return self if times == 1 else jax.tree.map(lambda x: jnp.repeat(x, times, 0), self)


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
) -> jax.Array:
  """Softmax attention of q [B, T, N, H] over runs of `Keys`; returns [B, T, N, H] in q's dtype.

  positions: int32 [B, T] of the queries, increasing along T inside a segment; needed when causal. segments: int32
  [B, T]; needs positions, and segments of each run. causal=False: every key that is not padding is seen. window: a
  query sees the last `window` keys, itself included. sinks: [N], one extra logit a head that takes part in the
  softmax and is dropped (GPT-OSS). bias: [B or 1, N, T, S], added to the scores. scale: of the scores; 1/√H by
  default. implementation: None picks by platform when the program is lowered; or a name.
  Raises ValueError for arguments that contradict each other, NotImplementedError if the named implementation cannot
  compute the call.
  """
  _check(runs, positions, segments, causal=causal, window=window, bias=bias)
  divisor = math.sqrt(q.shape[-1]) if scale is None else 1 / scale
  how = _How(causal, window, divisor, rules)
  default = 'chunked' if q.shape[1] > 2 * QUERY_BLOCK else 'reference'
  arrays = (q, tuple(runs), positions, segments, sinks, bias)
  return TABLE.call(*arrays, implementation=implementation, default=default, how=how)


def _check(runs, positions, segments, *, causal, window, bias) -> None:
  if causal and (positions is None or any(keys.positions is None for keys in runs)):
    raise ValueError('causal attention needs positions of queries and keys; pass causal=False for bidirectional')
  if window is not None and not causal:
    raise ValueError(f'window={window} needs causal attention: a window is counted back from the query')
  if segments is not None and positions is None:
    raise ValueError('segments need positions: those of each packed sample start at 0, and are -1 at padding')
  if segments is not None and any(keys.segments is None for keys in runs):
    raise ValueError('segments of the queries need segments of every run of keys')
  if bias is not None and len(runs) != 1:
    raise ValueError(f'an additive bias needs one run of keys, not {len(runs)}')


def visible(positions, segments, keys: Keys, how: _How) -> jax.Array | None:
  """Bool [B, T or 1, S], the keys each query sees; None if it sees all."""
  if keys.positions is None:
    return None
  k = keys.positions[:, None, :]
  see = k >= 0
  if how.causal:
    see = see & (k <= positions[:, :, None])
  if how.window is not None:
    see = see & (positions[:, :, None] - k < how.window)
  if segments is not None:
    see = see & (segments[:, :, None] == keys.segments[:, None, :])
  return see


def _reference(q, runs, positions, segments, sinks, bias, *, how: _How):
  b, t, n, h = q.shape
  heads = runs[0].k.shape[1]
  grouped = jnp.moveaxis(q.reshape(b, t, heads, n // heads, h), 1, 3)
  scores = []
  for keys in runs:
    dims = 'bkhs' if keys.columns else 'bksh'
    s = jnp.einsum(f'bkgth,{dims}->bkgts', grouped, keys.k, preferred_element_type=jnp.float32)
    s = s / how.divisor
    if bias is not None:
      s = s + bias.astype(jnp.float32).reshape(bias.shape[0], heads, -1, *bias.shape[2:])
    see = visible(positions, segments, keys, how)
    if see is not None:
      s = jnp.where(see[:, None, None], s, MASKED)
    scores.append(s)
  if sinks is not None:
    column = sinks.astype(jnp.float32).reshape(1, heads, -1, 1, 1)
    scores.append(jnp.broadcast_to(column, (*scores[0].shape[:-1], 1)))
  scores = jnp.concatenate(scores, -1) if len(scores) > 1 else scores[0]
  weights = jax.nn.softmax(scores, -1).astype(q.dtype)
  out, start = 0, 0
  for keys in runs:
    stop = start + keys.v.shape[2]
    out = out + jnp.einsum('bkgts,bksh->bkgth', weights[..., start:stop], keys.v)
    start = stop
  return jnp.moveaxis(out, 3, 1).reshape(b, t, n, h)


def _chunked(q, runs, positions, segments, sinks, bias, *, how: _How):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  t = q.shape[1]
  blocks = -(-t // QUERY_BLOCK)

  def split(x, *, axis=1, fill=0):
    if x is None:
      return None
    x = pad(jnp.asarray(x), blocks * QUERY_BLOCK, axis=axis, fill=fill)
    x = x.reshape(*x.shape[:axis], blocks, QUERY_BLOCK, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  @jax.checkpoint
  def block(args):
    q, positions, segments, bias = args
    return _reference(q, runs, positions, segments, sinks, bias, how=how)

  out = jax.lax.map(block, (split(q), split(positions, fill=-1), split(segments), split(bias, axis=2)))
  return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], blocks * QUERY_BLOCK, *q.shape[2:])[:, :t]


def _cudnn(q, runs, positions, segments, sinks, bias, *, how: _How):
  (keys,) = runs
  see = visible(positions, segments, keys, how)
  mask = None if see is None else see[:, None]
  k, v = (jnp.swapaxes(x, 1, 2) for x in (keys.k, keys.v))
  return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1 / how.divisor, implementation='cudnn')


def _splash(q, runs, positions, segments, sinks, bias, *, how: _How):
  """TPU flash attention.

  Causality goes by index, which equals position order inside a segment and over the runs. The runs of a layer are
  joined: a copy of one layer's keys, in place of scores. Lengths are padded to the kernel's tiles of 128 by tokens of
  segment 0. Under a mesh each device computes its own rows and heads over the whole length.
  """
  b, length, _, _ = q.shape
  join = lambda parts, axis: jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0]
  k, v = (join([getattr(keys, name) for keys in runs], 2) for name in 'kv')
  key_ids = join([_segments(keys.positions, keys.segments, (b, keys.v.shape[2])) for keys in runs], 1)
  before = k.shape[2] - length  # keys of earlier tokens
  grow = lambda x, axis: pad(x, -(-x.shape[axis] // LANES) * LANES, axis=axis)
  q, k, v, key_ids = grow(q, 1), grow(k, 2), grow(v, 2), grow(key_ids, 1)
  query_ids = grow(_segments(positions, segments, (b, length)), 1)

  def local(q, k, v, query_ids, key_ids, sinks):
    run = _splash_kernel(heads=q.shape[2], shape=(q.shape[1], k.shape[2]), before=before, sinks=sinks, how=how)
    out = jax.vmap(run)(jnp.swapaxes(q, 1, 2) / how.divisor, k, v, query_ids, key_ids)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype)

  return _per_device(local, q, k, v, query_ids, key_ids, sinks, how.rules)[:, :length]


def _splash_kernel(*, heads: int, shape: tuple[int, int], before: int, sinks, how: _How):
  """The Pallas kernel for one row: (q [N, T, H], k, v [K, S, H], segment ids [T], [S]) -> [N, T, H]."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  bq, bk = (next(n for n in (4 * LANES, 3 * LANES, 2 * LANES, LANES) if size % n == 0) for size in shape)
  sizes = splash.BlockSizes(
    block_q=bq,
    block_kv=bk,
    block_kv_compute=bk,
    block_q_dkv=bq,
    block_kv_dkv=bk,
    block_kv_dkv_compute=bk,
    block_q_dq=bq,
    block_kv_dq=bk,
  )
  if not how.causal:
    mask = splash.FullMask(shape)
  elif how.window is None:
    mask = splash.CausalMask(shape, before)
  else:
    mask = splash.LocalMask(shape, (how.window - 1, 0), before)
  kernel = splash.make_splash_mha_single_device(splash.MultiHeadMask([mask] * heads), block_sizes=sizes)
  sinks = None if sinks is None else sinks.astype(jnp.float32)

  def run(q, k, v, query_ids, key_ids):
    return kernel(q, k, v, segment_ids=splash.SegmentIds(query_ids, key_ids), sinks=sinks)

  return run


def _segments(positions, segments, shape) -> jax.Array:
  """int32 of `shape`: a segment for every token, 0 at padding."""
  segments = jnp.ones(shape, jnp.int32) if segments is None else segments
  return segments if positions is None else jnp.where(positions < 0, 0, segments)


def _per_device(local, q, k, v, query_ids, key_ids, sinks, rules):
  """`local(...)` on each device's rows and heads; key heads follow their query heads."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q, k, v, query_ids, key_ids, sinks)
  qs = partition(q.shape, ('batch', None, 'attn_heads', None), mesh, rules)
  shards = math.prod(mesh.shape[a] for a in qs[2] or ())
  copies = key_copies(k.shape[1], q.shape[2], shards)
  k, v = (jnp.repeat(x, copies, 1) if copies > 1 else x for x in (k, v))
  ks, heads = jax.P(qs[0], qs[2], None, None), jax.P(qs[2])
  ids = jax.P(qs[0], None)
  specs = (qs, ks, ks, ids, ids, None if sinks is None else heads)
  run = jax.shard_map(local, in_specs=specs, out_specs=qs, check_vma=False)
  return run(q, k, v, query_ids, key_ids, sinks)


def key_copies(key_heads: int, query_heads: int, shards: int) -> int:
  """The least repetition of each key head that lets every shard of the query heads hold its own keys."""
  return next(
    c
    for c in range(1, query_heads // key_heads + 1)
    if key_heads * c % shards == 0 and query_heads % (key_heads * c) == 0
  )


def _refuse_splash(q, runs, positions, segments, sinks, bias, *, how: _How) -> str | None:
  if bias is not None:
    return 'splash has no additive bias'
  if q.shape[1] != runs[-1].v.shape[2] or any(keys.columns for keys in runs):
    return 'splash attends to the keys of its own tokens, and to runs of keys in rows before them'
  if len(runs) > 1 and q.shape[1] <= 2 * QUERY_BLOCK:
    return f'splash joins the runs; that copy does not pay for {q.shape[1]} queries'
  if len(runs) > 1 and how.window is not None:
    return 'splash counts a window by index, and a cache may have gaps'
  if q.shape[-1] % 64:
    return f'splash needs a head size in 64s, not {q.shape[-1]}'
  return None


def _refuse_cudnn(q, runs, positions, segments, sinks, bias, *, how: _How) -> str | None:
  if not any(importlib.util.find_spec(f'jax_cuda{n}_plugin') for n in (12, 13)):
    return 'cudnn is asked for its version while tracing, and no CUDA plugin of JAX is installed'
  if len(runs) != 1 or runs[0].columns:
    return 'cudnn attends to one run of keys in rows, not to a cache'
  if sinks is not None or bias is not None:
    return 'cudnn has no sinks and no additive bias here'
  if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8 or q.shape[-1] > 128:
    return f'cudnn needs bfloat16/float16 and a head size in 8s up to 128, not {q.dtype} and {q.shape[-1]}'
  return None


TABLE = dispatch.Table(
  'attention',
  {
    'reference': Implementation(_reference),
    'chunked': Implementation(_chunked),
    'cudnn': Implementation(_cudnn, platform='cuda', refuse=_refuse_cudnn),
    'splash': Implementation(_splash, platform='tpu', refuse=_refuse_splash),
  },
)
