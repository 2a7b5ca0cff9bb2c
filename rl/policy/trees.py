"""Groups of trajectories as packed trees: tokens that several responses share pass through the model once.

B rows   G leaves a row   T row slots   M scored tokens of a row   N response slots   Q, K blocks of queries and keys
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import padding
from core.attention import subtrees

DENSE = 2 * subtrees.BLOCK  # rows of at most this many tokens attend densely


@struct.dataclass
class Trees:
  """Rows of one or several trees, nodes depth first; see `core.attention.subtrees`."""

  tokens: Any  # int32 [B, T]
  positions: Any  # int32 [B, T], the place on the token's own path; -1 at padding
  until: Any  # int32 [B, T]
  source: Any  # int32 [B, M], the index of the token that predicts each scored one: the one before it on its path
  target: Any  # int32 [B, M], the scored tokens: those of responses
  index: Any  # int32 [B, G, N], the places of each leaf's response among the scored tokens
  prompt: Any  # int32 [B], tokens of the first prompt; only in these do placeholders mean media
  blocks: Any = None  # int32 [B, Q, K], the plan of attention; None: dense
  pixels: Any = None  # as in `rl.policy.layouts.Shared`
  tile_tokens: Any = None


class Tree(NamedTuple):
  """One prompt and its responses as a prefix tree of n tokens.

  tokens, positions, until, source: int32 [n]; the root's source is -1. paths: the indices of each response's tokens.
  """

  tokens: np.ndarray
  positions: np.ndarray
  until: np.ndarray
  source: np.ndarray
  paths: list[np.ndarray]

  @property
  def scored(self) -> np.ndarray:
    """The indices of tokens of responses, ascending."""
    return np.unique(np.concatenate(self.paths))


def lay(prompt: np.ndarray, responses: Sequence[np.ndarray]) -> Tree:
  """The prefix tree of a prompt [P] and responses [n], which share their common first tokens.

  Equal prefixes have equal log-probabilities, so no lineage is needed. Raises ValueError for an empty prompt.
  """
  if not len(prompt):
    raise ValueError('a packed tree needs a prompt: its last token predicts the first one of each response')
  whole = [np.concatenate([prompt, response]).astype(np.int32) for response in responses]
  most = sum(map(len, whole))
  tokens, positions, until, source = np.zeros((4, most), np.int32)
  end = 0
  path = np.zeros(0, np.int32)
  previous = np.zeros(0, np.int32)
  paths = [path] * len(whole)
  # In lexicographic order, neighbours share the longest prefixes: this is a depth-first walk of the tree.
  for leaf in sorted(range(len(whole)), key=lambda i: whole[i].tolist()):
    sequence = whole[leaf]
    same = _common(previous, sequence)
    until[path[same:]] = end
    fresh = np.arange(end, end + len(sequence) - same, dtype=np.int32)
    path = np.concatenate([path[:same], fresh])
    tokens[fresh] = sequence[same:]
    positions[fresh] = np.arange(same, len(sequence))
    source[fresh] = np.concatenate([[-1], path[:-1]])[same:]
    paths[leaf] = path[len(prompt) :]
    end = end + len(fresh)
    previous = sequence
  until[path] = end
  return Tree(tokens[:end], positions[:end], until[:end], source[:end], paths)


def _common(a: np.ndarray, b: np.ndarray) -> int:
  """Number of equal tokens that two sequences begin with."""
  n = min(len(a), len(b))
  equal = a[:n] == b[:n]
  if equal.all():
    return n
  return int(equal.argmin())


def joined(trees: Sequence[Tree]) -> Tree:
  """Several trees as one row, one after another."""
  starts = np.cumsum([0, *(len(tree.tokens) for tree in trees)])
  sources = []
  for tree, start in zip(trees, starts):
    is_root = tree.source < 0
    sources.append(np.where(is_root, -1, tree.source + start))
  return Tree(
    tokens=np.concatenate([tree.tokens for tree in trees]),
    positions=np.concatenate([tree.positions for tree in trees]),
    until=np.concatenate([tree.until + start for tree, start in zip(trees, starts)]),
    source=np.concatenate(sources),
    paths=[path + start for tree, start in zip(trees, starts) for path in tree.paths],
  )


def of_groups(groups: Sequence[Sequence[Any]]) -> list[Tree]:
  """The tree of each group of trajectories, under the prompt of its first one."""
  return [lay(group[0].prompt.tokens, [t.tokens for t in group]) for group in groups]


def sizes(trees: Sequence[Tree]) -> tuple[int, int]:
  """(scored tokens of the largest tree, blocks of keys that a block of queries sees, at most)."""
  scored = max((len(tree.scored) for tree in trees), default=1)
  blocks = max((subtrees.plan(tree.until[None]).shape[-1] for tree in trees), default=1)
  return scored, blocks


def batch(
  rows: Sequence[Tree],
  prompts: Sequence[int],
  *,
  length: int,
  scored: int,
  samples: int,
  response: int,
  blocks: int,
  pad_id: int,
) -> Trees:
  """Trees as arrays of T = `length`, M = `scored`, G = `samples`, N = `response` and K = `blocks`.

  prompts: tokens of the first prompt of each row. Raises ValueError where a size is too small.
  """
  until = padding.batch([row.until for row in rows], dtype=np.int32, length=length, what='packed tree')
  every = [row.scored for row in rows]
  ints = {'dtype': np.int32, 'length': scored, 'what': 'list of scored tokens'}
  places = [[np.searchsorted(at, path) for path in row.paths] for row, at in zip(rows, every)]
  leaves = {'dtype': np.int32, 'length': response, 'count': samples, 'what': 'response'}
  return Trees(
    tokens=padding.batch([row.tokens for row in rows], dtype=np.int32, length=length, fill=pad_id),
    positions=padding.batch([row.positions for row in rows], dtype=np.int32, length=length, fill=-1),
    until=until,
    source=padding.batch([row.source[at] for row, at in zip(rows, every)], **ints),
    target=padding.batch([row.tokens[at] for row, at in zip(rows, every)], **ints),
    index=np.stack([padding.batch(row, **leaves) for row in places]),
    prompt=np.array(prompts, np.int32),
    blocks=subtrees.plan(until, blocks) if length > DENSE else None,
  )


def shapes(groups: int, *, length: int, scored: int, samples: int, response: int, blocks: int) -> Trees:
  """The shapes and dtypes of `batch`."""
  ints = lambda *shape: jax.ShapeDtypeStruct((groups, *shape), jnp.int32)
  count = -(-length // subtrees.BLOCK)
  return Trees(
    tokens=ints(length),
    positions=ints(length),
    until=ints(length),
    source=ints(scored),
    target=ints(scored),
    index=ints(samples, response),
    prompt=ints(),
    blocks=ints(count, blocks) if length > DENSE else None,
  )
