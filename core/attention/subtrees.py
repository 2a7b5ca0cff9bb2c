"""Packed trees: rows of tokens in which a token sees only the tokens on its own path.

B rows   T tokens, the nodes of each tree depth first   Q query blocks   M key blocks that a query block sees
K key heads   H head size
"""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

BLOCK = 64  # tokens of a block; larger ones see more than they need, smaller ones fill a matrix unit badly


@struct.dataclass
class Subtrees:
  """Which keys a query sees: the query at index i sees the key at index j exactly if j <= i < until[j].

  That is causality, ancestry, separation of trees and padding at once. until: int32 [B, T], the index after the last
  token of the subtree that begins with this one; 0 at padding. blocks: int32 [B, Q, M] from `plan`, or None to attend
  densely. places: int32 [B, T], the indices of the keys where they are not 0..T-1.
  """

  until: Any
  blocks: Any = None
  places: Any = None

  def visible(self, index: jax.Array) -> jax.Array:
    """Bool [B, T, S]: the keys that queries at `index` int32 [B or 1, T] see."""
    until = jnp.asarray(self.until)[:, None, :]
    if self.places is None:
      places = jnp.arange(until.shape[-1])
    else:
      places = self.places[:, None, :]
    queries = index[:, :, None]
    is_before = places <= queries
    is_within = queries < until
    return is_before & is_within


def of_segments(segments: np.ndarray) -> np.ndarray:
  """`until` int32 [B, T] of packed samples, each a tree of one node; segments: int32 [B, T], 0 at padding."""
  segments = np.asarray(segments)
  length = segments.shape[1]
  is_last = np.diff(segments, axis=1, append=-1) != 0
  after = np.arange(1, length + 1)
  ends = np.where(is_last, after, length)
  # From the right: each token takes the nearest end at or after it.
  from_right = np.minimum.accumulate(ends[:, ::-1], axis=1)
  nearest = from_right[:, ::-1]
  until = np.where(segments > 0, nearest, 0)
  return until.astype(np.int32)


def plan(until: np.ndarray, most: int | None = None) -> np.ndarray:
  """The key blocks that each query block sees, int32 [B, Q, M], -1 after the last; M is `most` or the longest list.

  A block of keys is listed if any of its tokens is seen by a query at or after the query block's first one.
  Raises ValueError if a list is longer than `most`.
  """
  rows, length = until.shape
  count = -(-length // BLOCK)
  missing = count * BLOCK - length
  padded = np.pad(until, ((0, 0), (0, missing)))
  by_block = padded.reshape(rows, count, BLOCK)
  reach = by_block.max(-1)
  block = np.arange(count)
  first = block * BLOCK
  reached = reach[:, None, :] > first[:, None]
  causal = block <= block[:, None]
  seen = reached & causal
  longest = seen.sum(-1).max()
  longest = max(int(longest), 1)
  if most is None:
    most = longest
  if longest > most:
    raise ValueError(f'a block of queries sees {longest} blocks of keys: expected at most {most}')
  return _lists(seen, most)


def _lists(seen: np.ndarray, most: int) -> np.ndarray:
  """The numbers of the true entries of bool [B, Q, K] in ascending order, int32 [B, Q, most], -1 after the last."""
  # A stable sort of the negation moves true entries to the front and keeps their order.
  order = np.argsort(~seen, axis=-1, kind='stable')
  order = order[..., :most]
  listed = np.take_along_axis(seen, order, -1)
  blocks = np.where(listed, order, -1)
  missing = most - blocks.shape[-1]
  padded = np.pad(blocks, ((0, 0), (0, 0), (0, missing)), constant_values=-1)
  return padded.astype(np.int32)


def in_blocks(x: jax.Array, axis: int) -> jax.Array:
  """x with `axis` padded to whole blocks, which become a leading axis: [Q, …, BLOCK, …]."""
  length = x.shape[axis]
  count = -(-length // BLOCK)
  missing = count * BLOCK - length
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, missing)
  x = jnp.pad(x, widths)
  before = x.shape[:axis]
  after = x.shape[axis + 1 :]
  x = x.reshape(*before, count, BLOCK, *after)
  return jnp.moveaxis(x, axis, 0)


def gather(blocks: jax.Array, listed: jax.Array) -> jax.Array:
  """The listed blocks of each row: x [Q, B, …] and int32 [B, M] give [M, B, …]. A place of -1 takes any block."""
  rows = jnp.moveaxis(blocks, 1, 0)
  known = jnp.maximum(listed, 0)
  chosen = jax.vmap(operator.getitem)(rows, known)
  return jnp.moveaxis(chosen, 1, 0)


def flat(blocks: jax.Array, axis: int) -> jax.Array:
  """The inverse of `in_blocks` without its padding: [M, …, BLOCK, …] with the blocks back along `axis`."""
  x = jnp.moveaxis(blocks, 0, axis)
  before = x.shape[:axis]
  after = x.shape[axis + 2 :]
  return x.reshape(*before, -1, *after)
