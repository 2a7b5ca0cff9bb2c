"""Softmax attention for every model: one function, several implementations.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size

Keys come as one or more runs (a cache, then the new tokens), so decoding never concatenates to a cache. A query sees
a key if the key is not padding (position >= 0), is of the same segment and, when causal, is not later than the query
and inside the window. In packed trees (`core.attention.subtrees`) it sees the keys of its own path. Implementations:
'reference' (plain jnp: the definition), 'chunked' (the same in blocks of queries, linear memory), 'blocked' (packed
trees: each block of queries reads the blocks of keys that a plan lists), 'tiled' (every key is seen, on a CPU),
'triangle' (a causal run of tokens to itself, on a CPU), 'cudnn' (jax.nn on GPU), 'splash' (Pallas on TPU).
"""

import math
from collections.abc import Sequence

import jax

from core.attention import blocked, cudnn, reference, sizes, splash, tiled, triangle
from core.attention.keys import How, Keys
from core.mesh import RULES
from core.tap import Tap
from kernels import dispatch
from kernels.dispatch import Implementation


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
  how = How(causal=causal, window=window, divisor=divisor, rules=rules)
  default = _default(q, runs)
  arrays = (q, tuple(runs), positions, segments, sinks, bias)
  if tap is not None and tap.asks_attention(_pattern_shape(q, runs)):
    if implementation not in (None, 'reference'):
      raise ValueError(f"scores and pattern: attention {implementation!r} does not give them; use None or 'reference'")
    return reference.attend(*arrays, how=how, tap=tap)
  return TABLE.call(*arrays, implementation=implementation, default=default, how=how)


def _default(q: jax.Array, runs: Sequence[Keys]) -> str:
  """The implementation where the platform has none of its own."""
  if runs[0].subtrees is not None and runs[0].subtrees.blocks is not None:
    return 'blocked'
  if q.shape[1] > 2 * sizes.QUERY_BLOCK:
    return 'chunked'
  return 'reference'


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


TABLE = dispatch.Table(
  'attention',
  {
    'reference': Implementation(reference.attend),
    'chunked': Implementation(reference.chunked),
    'blocked': Implementation(blocked.attend, refuse=blocked.refuse),
    'tiled': Implementation(tiled.attend, platform='cpu', refuse=tiled.refuse, decline=tiled.decline),
    'cudnn': Implementation(cudnn.attend, platform='cuda', refuse=cudnn.refuse),
    'splash': Implementation(splash.attend, platform='tpu', refuse=splash.refuse),
    'triangle': Implementation(triangle.attend, platform='cpu', refuse=triangle.refuse, decline=triangle.decline),
  },
)
