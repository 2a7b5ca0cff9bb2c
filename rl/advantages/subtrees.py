"""Rewards compared within every subtree of a sample.

P prompts   G samples of each, the leaves of its tree
"""

import jax
import numpy as np

from rl.advantages.whitening import flat


def common_segments(parent: np.ndarray, segment: np.ndarray) -> np.ndarray:
  """Int32 [P, G, G]: how many segments each two leaves share, 0 if only the prompt.

  parent, segment: int [P, G] as in `rl.advantages.Lineage`; parents come before their children. A sample shares with an
  earlier one what its parent does, up to where it left its parent. On the diagonal: with itself, more than with others.
  """
  rows, count = parent.shape
  common = np.zeros((rows, count, count), np.int32)
  for of_tree, origins, branches in zip(common, parent, segment):
    for leaf, (origin, branch) in enumerate(zip(origins, branches)):
      if origin < 0:
        continue
      shared = np.minimum(of_tree[origin, :leaf], branch)
      shared[origin] = branch
      of_tree[leaf, :leaf] = shared
      of_tree[:leaf, leaf] = shared
  most = common.max(initial=0) + 1
  diagonal = np.arange(count)
  common[:, diagonal, diagonal] = most
  return common


def tree_centred(
  rewards: jax.Array, common: np.ndarray, valid: jax.Array, *, by_size: bool, reject: bool
) -> np.ndarray:
  """Rewards minus the mean of their group, averaged over the groups of a leaf: float32 [P, G] to [P, G].

  The group of level j is the leaves that share j segments; level 0 is all leaves of the prompt and always counts,
  deeper ones count if they have several leaves. common: of `common_segments`. by_size: the average is weighted by the
  sizes of the groups. reject: groups below level 0 with equal rewards are left out. A prompt with one leaf keeps its
  reward; leaves that are not valid enter no mean and get 0. On the host, since the number of levels is data.
  (TreePO, arXiv 2508.17445, §2.3.)
  """
  rewards = np.asarray(rewards, np.float32)
  valid = np.asarray(valid)
  count = rewards.shape[1]
  different = ~np.eye(count, dtype=bool)
  deepest = int(common.max(where=different, initial=0))
  total = np.zeros(rewards.shape)
  weights = np.zeros(rewards.shape)
  for level in range(deepest + 1):
    member = (common >= level) & valid[:, None, :]
    size, centred, equal = _within(rewards, member)
    weight = size if by_size else np.ones(size.shape)
    if level:
      weight = np.where(size > 1, weight, 0)
    if level and reject:
      weight = np.where(equal, 0, weight)
    total = total + weight * centred
    weights = weights + weight
  is_alone = valid.sum(-1, keepdims=True) == 1
  average = total / np.maximum(weights, 1)
  kept = np.where(is_alone, rewards, average)
  return np.where(valid, kept, 0)


def _within(rewards: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(size, reward minus the mean, whether all rewards are equal), [P, G] each, of the group member [P, G, G] of a leaf.

  Where all rewards are equal the difference is exactly 0.
  """
  others = np.broadcast_to(rewards[:, None, :], member.shape)
  size = member.sum(-1)
  total = np.where(member, others, 0).sum(-1)
  mean = total / np.maximum(size, 1)
  equal = np.asarray(flat(others, member))
  centred = np.where(equal, 0, rewards - mean)
  return size, centred, equal
