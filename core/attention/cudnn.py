"""Flash attention of cuDNN, through jax.nn, on NVIDIA GPUs.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import importlib

import jax
import jax.numpy as jnp

from core.attention.keys import How, visible


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """As `core.attention.attention`, of one run of keys: [B, T, N, H]."""
  (keys,) = runs
  rows, time, _, _ = q.shape
  length = keys.v.shape[2]
  mask = visible(positions, segments, keys, how)
  lengths = None
  if mask is not None:
    mask = jnp.broadcast_to(mask, (rows, time, length))
    mask = _even(_even(mask, 1), 2)[:, None]
  elif length % 2:
    lengths = jnp.full(rows, length, jnp.int32)
  y = jax.nn.dot_product_attention(
    _even(q, 1),
    _even(jnp.swapaxes(keys.k, 1, 2), 1),
    _even(jnp.swapaxes(keys.v, 1, 2), 1),
    mask=mask,
    key_value_seq_lengths=lengths,
    scale=1 / how.divisor,
    implementation='cudnn',
  )
  return y[:, :time]


def _even(x: jax.Array, axis: int) -> jax.Array:
  """x padded to an even size of `axis`: jax refuses gradients through cuDNN of odd numbers of queries or keys."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, x.shape[axis] % 2)
  return jnp.pad(x, padding)


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  if version() is None:
    return 'tracing asks cudnn for its version: it needs a CUDA plugin of JAX, and cuDNN'
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


def version() -> int | None:
  """The version of cuDNN that jax reads while it traces; None without a CUDA plugin, or without cuDNN."""
  versions = library()
  if versions is None:
    return None
  try:
    return versions.cudnn_get_version()
  except RuntimeError:  # no cuDNN
    return None


def library():
  """The module of JAX's CUDA plugin that jax asks for versions; None without a plugin."""
  for number in (13, 12):
    try:
      return importlib.import_module(f'jax_cuda{number}_plugin._versions')
    except ImportError:
      continue
  return None
