"""Attention of Whisper's decoder, in which the rows of one audio share its keys.

B audios   R rows of text, a multiple of B   T tokens   S keys   D width   N heads   H head size
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import MASKED
from core.params import einsum


@struct.dataclass
class Attention:
  """q, k, v [D, N, H] and o [N, H, D]; keys have no bias."""

  q: Any
  q_bias: Any
  k: Any
  v: Any
  v_bias: Any
  o: Any
  o_bias: Any


def attend(p: Attention, q, k, v, mask, note, name: Callable[[str], str]):
  """Attention of q [R, T, N, H] over k, v [B, N, S, H], projected to [R, T, D]; mask: bool [R, 1, T, S] or None."""
  size = q.shape[-1]
  q = note(name('q'), q)
  k = _note_keys(note, name('k'), k)
  v = _note_keys(note, name('v'), v)
  scores = _products(q, k) * size**-0.5
  if mask is not None:
    scores = jnp.where(mask, scores, MASKED)
  scores = note(name('scores'), scores)
  pattern = jax.nn.softmax(scores, -1)
  pattern = note(name('pattern'), pattern)
  z = _averages(pattern.astype(v.dtype), v)
  z = note(name('z'), z)
  out = einsum('rtnh,nhd->rtd', z, p.o) + p.o_bias
  return note(name('attn_out'), out)


def _products(q: jax.Array, k: jax.Array) -> jax.Array:
  """float32 [R, N, T, S]: queries [R, T, N, H] times keys [B, N, S, H], read once for all rows of one audio.

  One batch axis for audios and heads: XLA's matrix products on CPU are several times slower with two.
  """
  rows, time, heads, size = q.shape
  audios, _, length, _ = k.shape
  by_audio = q.reshape(audios, -1, heads, size)
  by_head = by_audio.swapaxes(1, 2)
  flat = by_head.reshape(audios * heads, -1, size)
  keys = k.reshape(audios * heads, length, size)
  products = jnp.einsum('xth,xsh->xts', flat, keys, preferred_element_type=jnp.float32)
  by_head = products.reshape(audios, heads, -1, time, length)
  by_row = by_head.swapaxes(1, 2)
  return by_row.reshape(rows, heads, time, length)


def _averages(pattern: jax.Array, v: jax.Array) -> jax.Array:
  """[R, T, N, H]: values [B, N, S, H] averaged by the pattern [R, N, T, S]."""
  rows, heads, time, length = pattern.shape
  audios, _, _, size = v.shape
  by_audio = pattern.reshape(audios, -1, heads, time, length)
  by_head = by_audio.swapaxes(1, 2)
  flat = by_head.reshape(audios * heads, -1, length)
  values = v.reshape(audios * heads, length, size)
  z = jnp.einsum('xts,xsh->xth', flat, values)
  by_head = z.reshape(audios, heads, -1, time, size)
  by_row = by_head.swapaxes(1, 2).reshape(rows, heads, time, size)
  return by_row.swapaxes(1, 2)


def _note_keys(note, site: str, x: jax.Array) -> jax.Array:
  """Keys or values [B, N, S, H] through the tap, which sees them as [B, S, N, H], as in every model."""
  by_position = jnp.swapaxes(x, 1, 2)
  noted = note(site, by_position)
  return jnp.swapaxes(noted, 1, 2)
