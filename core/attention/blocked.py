"""Attention of packed trees: each block of queries reads the blocks of keys that a plan lists.

B batch   T queries   S keys   N query heads   K key heads   G = N/K   H head size
"""

import jax
import jax.numpy as jnp

from core.attention import reference
from core.attention import subtrees as trees
from core.attention.keys import How, Keys
from core.attention.subtrees import Subtrees


def attend(q, runs, positions, segments, sinks, bias, *, how: How):
  """Packed trees: each block of queries attends densely to the blocks of keys that the plan lists for it.

  A block is recomputed in the backward pass. Scores take O(BLOCK · M · BLOCK) at a time, not O(T²).
  """
  (keys,) = runs
  k = trees.in_blocks(keys.k, 2)
  v = trees.in_blocks(keys.v, 2)
  key_positions = trees.in_blocks(keys.positions, 1)
  until = trees.in_blocks(keys.subtrees.until, 1)
  within = jnp.arange(trees.BLOCK)

  def near(blocks, listed, axis):
    return trees.flat(trees.gather(blocks, listed), axis)

  @jax.checkpoint
  def block(args):
    q, positions, number, listed = args
    index = number * trees.BLOCK + within
    places = listed[..., None] * trees.BLOCK + within
    places = places.reshape(len(listed), -1)
    is_padding = places < 0
    seen_until = jnp.where(is_padding, 0, near(until, listed, 1))
    keys = Keys(
      near(k, listed, 2),
      near(v, listed, 2),
      near(key_positions, listed, 1),
      subtrees=Subtrees(seen_until, places=places),
    )
    return reference.attend(q, [keys], positions, None, sinks, None, how=how, index=index[None])

  listed = jnp.moveaxis(jnp.asarray(keys.subtrees.blocks), 1, 0)
  numbers = jnp.arange(len(listed))
  args = (trees.in_blocks(q, 1), trees.in_blocks(positions, 1), numbers, listed)
  out = jax.lax.map(block, args)
  length = q.shape[1]
  return trees.flat(out, 1)[:, :length]


def refuse(q, runs, positions, segments, sinks, bias, *, how: How) -> str | None:
  """Why this implementation cannot compute a call of `core.attention.attention`; None if it can."""
  keys = runs[0]
  if keys.subtrees is None or keys.subtrees.blocks is None:
    return 'blocked needs packed trees with a plan of blocks, `core.attention.subtrees.plan`'
  if keys.columns:
    return 'blocked needs keys in rows'
  return None
