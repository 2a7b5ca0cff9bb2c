"""One `attention(...)` for every model: implementations side by side, picked when the program is lowered.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size

Keys come as one or more runs (a cache, then the new tokens), so decoding concatenates nothing to a cache. A query
sees a key when the key's position is known (>= 0), not later than the query's, inside the window, and of the same
segment. `implementation` is None (pick), or a name: 'reference' (plain jnp, the definition), 'chunked' (the same in
blocks of queries, linear memory), 'cudnn' (jax.nn on GPU), 'splash' (Pallas on TPU). A named implementation that
cannot do the call raises NotImplementedError saying why.
"""

import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES, partition
from core.padding import pad

MASKED = -1e30  # finite, so that a row that sees nothing stays free of NaN
QUERY_BLOCK = 512
LANES = 128  # of a TPU's vector register


@struct.dataclass
class Keys:
  """A run of keys and values, [B, K, S, H]; `positions` int32 [B, S], negative where there is no token.

  `segments` int32 [B, S] separates packed samples (0 is padding). `columns`: k is [B, K, H, S].
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array | None = None
  segments: jax.Array | None = None
  columns: bool = struct.field(pytree_node=False, default=False)

  def repeat(self, times: int) -> 'Keys':
    """Each row `times` times in a row: what several answers to one prompt attend to."""
    return self if times == 1 else jax.tree.map(lambda x: jnp.repeat(x, times, 0), self)


def attention(q, runs, *, positions=None, segments=None, window=None, sinks=None, implementation=None, rules=RULES):
  """Softmax attention of q [B, T, N, H] over runs of `Keys`; returns [B, T, N, H] in q's dtype.

  positions: int32 [B, T] of the queries, increasing along T inside a segment; None attends to everything.
  window: a query sees the last `window` keys, itself included. sinks: [N], one extra logit a head that takes part
  in the softmax and is dropped (GPT-OSS).
  """
  call = functools.partial(_run, window=window, rules=rules)
  args = (q, tuple(runs), positions, segments, sinks)
  if implementation is not None:
    return call(implementation, *args)
  plain = 'chunked' if q.shape[1] > 2 * QUERY_BLOCK else 'reference'
  pick = {}
  for platform, name in (('tpu', 'splash'), ('cuda', 'cudnn')):
    if REFUSALS[name](*args, window) is None:
      pick[platform] = functools.partial(call, name)
  default = functools.partial(call, plain)
  return jax.lax.platform_dependent(*args, **pick, default=default) if pick else default(*args)


def visible(positions, segments, keys: Keys, window) -> jax.Array:
  """Bool [B, T, S]: which keys each query sees."""
  q, k = positions[:, :, None], keys.positions[:, None, :]
  see = (k >= 0) & (k <= q)
  if window is not None:
    see &= q - k < window
  if segments is not None:
    see &= segments[:, :, None] == keys.segments[:, None, :]
  return see


def _reference(q, runs, positions, segments, sinks, *, window, rules):
  b, t, n, h = q.shape
  heads = runs[0].k.shape[1]
  grouped = jnp.moveaxis(q.reshape(b, t, heads, n // heads, h), 1, 3)
  scores = []
  for keys in runs:
    dims = 'bkhs' if keys.columns else 'bksh'
    s = jnp.einsum(f'bkgth,{dims}->bkgts', grouped, keys.k, preferred_element_type=jnp.float32) / math.sqrt(h)
    if positions is not None:
      s = jnp.where(visible(positions, segments, keys, window)[:, None, None], s, MASKED)
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


def _chunked(q, runs, positions, segments, sinks, *, window, rules):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  t = q.shape[1]
  blocks = -(-t // QUERY_BLOCK)

  def split(x, fill):
    if x is None:
      return None
    x = pad(jnp.asarray(x), blocks * QUERY_BLOCK, axis=1, fill=fill)
    return jnp.moveaxis(x.reshape(x.shape[0], blocks, QUERY_BLOCK, *x.shape[2:]), 1, 0)

  @jax.checkpoint
  def block(args):
    q, positions, segments = args
    return _reference(q, runs, positions, segments, sinks, window=window, rules=rules)

  out = jax.lax.map(block, (split(q, 0), split(positions, -1), split(segments, 0)))
  return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], blocks * QUERY_BLOCK, *q.shape[2:])[:, :t]


def _cudnn(q, runs, positions, segments, sinks, *, window, rules):
  (keys,) = runs
  mask = None if positions is None else visible(positions, segments, keys, window)[:, None]
  k, v = (jnp.swapaxes(x, 1, 2) for x in (keys.k, keys.v))
  return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation='cudnn')


def _splash(q, runs, positions, segments, sinks, *, window, rules):
  """TPU flash attention. Causality goes by index, which equals position order inside a segment and over the runs.

  The runs of a layer are joined: a copy of one layer's keys, in place of scores. Lengths are padded to the kernel's
  tiles of 128 by tokens of no segment. Under a mesh each device runs its own rows and heads over the whole length.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  b, length, _, h = q.shape
  join = lambda parts, axis: jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0]
  k, v = (join([getattr(keys, name) for keys in runs], 2) for name in 'kv')
  theirs = join([_segments(keys.positions, keys.segments, (b, keys.v.shape[2])) for keys in runs], 1)
  before = k.shape[2] - length  # keys of earlier tokens
  grow = lambda x, axis: pad(x, -(-x.shape[axis] // LANES) * LANES, axis=axis)
  q, k, v, theirs = grow(q, 1), grow(k, 2), grow(v, 2), grow(theirs, 1)
  own = grow(_segments(positions, segments, (b, length)), 1)
  shape = q.shape[1], k.shape[2]
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

  def local(q, k, v, own, theirs, sinks):
    one = (
      splash.FullMask(shape)
      if positions is None
      else (splash.CausalMask(shape, before) if window is None else splash.LocalMask(shape, (window - 1, 0), before))
    )
    kernel = splash.make_splash_mha_single_device(splash.MultiHeadMask([one] * q.shape[2]), block_sizes=sizes)
    run = lambda q, k, v, own, theirs: kernel(
      q, k, v, segment_ids=splash.SegmentIds(own, theirs), sinks=None if sinks is None else sinks.astype(jnp.float32)
    )
    out = jax.vmap(run)(jnp.swapaxes(q, 1, 2) / math.sqrt(h), k, v, own, theirs)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype)

  return _per_device(local, q, k, v, own, theirs, sinks, rules)[:, :length]


def _segments(positions, segments, shape) -> jax.Array:
  """int32 of `shape`, a segment for every token: 0 where there is none."""
  segments = jnp.ones(shape, jnp.int32) if segments is None else segments
  return segments if positions is None else jnp.where(positions < 0, 0, segments)


def _per_device(local, q, k, v, own, theirs, sinks, rules):
  """`local(q, k, v, own, theirs, sinks)` on each device's rows and heads; key heads go with their query heads."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q, k, v, own, theirs, sinks)
  place = lambda x, *axes: partition(x.shape, axes, mesh, rules)
  qs = place(q, 'batch', None, 'attn_heads', None)
  copies = key_copies(k.shape[1], q.shape[2], math.prod(mesh.shape[a] for a in qs[2] or ()))
  k, v = (jnp.repeat(x, copies, 1) if copies > 1 else x for x in (k, v))
  ks, heads = jax.P(qs[0], qs[2], None, None), jax.P(qs[2])
  ids = jax.P(qs[0], None)
  specs = (qs, ks, ks, ids, ids, None if sinks is None else heads)
  return jax.shard_map(local, in_specs=specs, out_specs=qs, check_vma=False)(q, k, v, own, theirs, sinks)


def key_copies(key_heads: int, query_heads: int, shards: int) -> int:
  """How often each key head is repeated so that `shards` equal parts of the query heads find their keys in theirs."""
  return next(
    c
    for c in range(1, query_heads // key_heads + 1)
    if key_heads * c % shards == 0 and query_heads % (key_heads * c) == 0
  )


def _refuse_splash(q, runs, positions, segments, sinks, window):
  if q.shape[1] != runs[-1].v.shape[2] or any(keys.columns for keys in runs):
    return 'splash attends to the keys of its own tokens, and of runs in rows before them'
  if len(runs) > 1 and q.shape[1] <= 2 * QUERY_BLOCK:
    return f'splash joins the runs, a copy that {q.shape[1]} queries are not worth'
  if len(runs) > 1 and window is not None:
    return 'splash counts a window by index, and a cache may have gaps'
  if q.shape[-1] % 64:
    return f'splash needs a head size in 64s, not {q.shape[-1]}'
  return None


def _refuse_cudnn(q, runs, positions, segments, sinks, window):
  if not any(importlib.util.find_spec(f'jax_cuda{n}_plugin') for n in (12, 13)):
    return 'cudnn is asked for its version while tracing, and no CUDA plugin of JAX is installed'
  if len(runs) != 1 or runs[0].columns:
    return 'cudnn attends to one run of keys in rows, not to a cache'
  if sinks is not None:
    return 'cudnn has no sinks'
  if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8 or q.shape[-1] > 128:
    return f'cudnn needs bfloat16/float16 and a head size in 8s up to 128, not {q.dtype} and {q.shape[-1]}'
  return None


IMPLEMENTATIONS = {'reference': _reference, 'chunked': _chunked, 'cudnn': _cudnn, 'splash': _splash}
REFUSALS = {'reference': lambda *a: None, 'chunked': lambda *a: None, 'cudnn': _refuse_cudnn, 'splash': _refuse_splash}


def _run(name, *args, window, rules):
  if name not in IMPLEMENTATIONS:
    raise ValueError(f'attention implementation {name!r}; expected one of {sorted(IMPLEMENTATIONS)}')
  if (why := REFUSALS[name](*args, window)) is not None:
    raise NotImplementedError(why)
  return IMPLEMENTATIONS[name](*args, window=window, rules=rules)
