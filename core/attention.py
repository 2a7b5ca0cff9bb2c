"""One `attention(...)` for every model: implementations side by side, picked when the program is lowered.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size

Keys come as one or more runs (a cache, then the new tokens), so nothing is ever concatenated to a cache. A query
sees a key when the key's position is known (>= 0), not later than the query's, inside the window, and of the same
segment. `implementation` is None (pick), or a name: 'reference' (plain jnp, the definition), 'chunked' (the same in
blocks of queries, linear memory), 'cudnn' (jax.nn on GPU), 'splash' (Pallas on TPU). A named implementation that
cannot do the call raises NotImplementedError saying why.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES, _divisible, physical

MASKED = -1e30  # finite, so that a row that sees nothing stays free of NaN
QUERY_BLOCK = 512


@struct.dataclass
class Keys:
  """A run of keys and values, [B, K, S, H]; `positions` int32 [B, S], negative where there is no token.

  `segments` int32 [B, S] separates packed samples (0 is padding).
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array | None = None
  segments: jax.Array | None = None


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
    if REFUSALS[name](*args) is None:
      pick[platform] = functools.partial(call, name)
  return jax.lax.platform_dependent(*args, **pick, default=functools.partial(call, plain)) if pick else call(plain, *args)


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
  grouped = q.reshape(b, t, heads, n // heads, h)
  scores = []
  for keys in runs:
    s = jnp.einsum('btkgh,bksh->bkgts', grouped, keys.k, preferred_element_type=jnp.float32) / math.sqrt(h)
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
    stop = start + keys.k.shape[2]
    out = out + jnp.einsum('bkgts,bksh->btkgh', weights[..., start:stop], keys.v)
    start = stop
  return out.reshape(b, t, n, h)


def _chunked(q, runs, positions, segments, sinks, *, window, rules):
  """The reference over blocks of queries, each recomputed in the backward pass: memory O(QUERY_BLOCK · S)."""
  t = q.shape[1]
  blocks = -(-t // QUERY_BLOCK)
  pad = blocks * QUERY_BLOCK - t

  def split(x, fill):
    if x is None:
      return None
    x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2), constant_values=fill)
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
  """TPU flash attention. Causality goes by index, which equals position order inside a segment."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash
  (keys,) = runs
  b, t, n, h = q.shape
  segments = jnp.ones((b, t), jnp.int32) if segments is None else segments
  if positions is not None:
    segments = jnp.where(positions < 0, 0, segments)

  def local(q, k, v, segments, sinks):
    heads = q.shape[2]
    one = splash.FullMask((t, t)) if positions is None else (
        splash.CausalMask((t, t)) if window is None else splash.LocalMask((t, t), (window - 1, 0), 0))
    block = math.gcd(t, 512)
    sizes = splash.BlockSizes(block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block,
                              block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block)
    kernel = splash.make_splash_mha_single_device(splash.MultiHeadMask([one] * heads), block_sizes=sizes)
    run = lambda q, k, v, s: kernel(q, k, v, segment_ids=splash.SegmentIds(s, s),
                                    sinks=None if sinks is None else sinks.astype(jnp.float32))
    out = jax.vmap(run)(jnp.swapaxes(q, 1, 2) / math.sqrt(h), k, v, segments)
    return jnp.swapaxes(out, 1, 2).astype(q.dtype)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return local(q, keys.k, keys.v, segments, sinks)
  place = lambda x, *axes: _divisible(physical(axes, rules), x.shape, mesh)
  qs, ks = place(q, 'batch', None, 'heads', None), place(keys.k, 'batch', 'kv_heads', None, None)
  specs = (qs, ks, ks, place(segments, 'batch', None), None if sinks is None else place(sinks, 'heads'))
  return jax.shard_map(local, in_specs=specs, out_specs=qs, check_vma=False)(q, keys.k, keys.v, segments, sinks)


def _refuse_splash(q, runs, positions, segments, sinks):
  if len(runs) != 1 or q.shape[1] != runs[0].k.shape[2]:
    return 'splash attends within one run of tokens, not to a cache'
  if q.shape[1] % 128 or q.shape[-1] % 64:
    return f'splash needs a length in 128s and a head size in 64s, not {q.shape[1]} and {q.shape[-1]}'
  return None


def _refuse_cudnn(q, runs, positions, segments, sinks):
  if len(runs) != 1:
    return 'cudnn attends to one run of keys, not to a cache and new tokens'
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
  if (why := REFUSALS[name](*args)) is not None:
    raise NotImplementedError(why)
  return IMPLEMENTATIONS[name](*args, window=window, rules=rules)
