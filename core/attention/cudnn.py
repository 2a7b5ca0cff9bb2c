"""Flash attention of cuDNN, through jax.nn, on NVIDIA GPUs.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import importlib.util

import jax
import jax.numpy as jnp

from core.attention.keys import How, visible


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """As `core.attention.attention`, of one run of keys: [B, T, N, H]."""
  (keys,) = runs
  mask = visible(positions, segments, keys, how)
  if mask is not None:
    mask = mask[:, None]
  k = jnp.swapaxes(keys.k, 1, 2)
  v = jnp.swapaxes(keys.v, 1, 2)
  return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1 / how.divisor, implementation='cudnn')


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
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
