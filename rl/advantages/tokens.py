"""Advantages of each token, whitened over the tokens of the batch.

P prompts   G samples of each   T tokens
"""

import jax
import jax.numpy as jnp
import numpy as np

from rl.advantages.groups import dr_grpo
from rl.advantages.subtrees import tree_centred
from rl.advantages.whitening import whiten


def token_rewards(
  rewards: jax.Array, mask: jax.Array, divergence: jax.Array | None = None, kl_coef: float = 0.0
) -> jax.Array:
  """[P, G, T]: the reward of a sample [P, G] at its last token, minus kl_coef·divergence [P, G, T] at every token.

  (REINFORCE++, arXiv 2501.03262; the divergence there is k1 from the reference policy.)
  """
  number = jnp.cumsum(mask, -1)
  count = mask.sum(-1, keepdims=True)
  is_last = mask & (number == count)
  placed = jnp.where(is_last, rewards[..., None], 0.0)
  if divergence is None:
    return placed
  penalty = jnp.where(mask, divergence, 0.0)
  return placed - kl_coef * penalty


def reinforce_pp(rewards: jax.Array, mask: jax.Array, gamma: float = 1.0) -> jax.Array:
  """Returns of token rewards, whitened over the batch (REINFORCE++, arXiv 2501.03262): float32 [P, G, T].

  rewards: [P, G, T] from `token_rewards`; the return is Σ_{t' ≥ t} γ^(t' − t) r_t' over the tokens of `mask`; only
  these count as steps.
  """

  def back(later, now):
    reward, counted = now
    value = jnp.where(counted, reward + gamma * later, later)
    return value, value

  rewards = jnp.where(mask, rewards, 0.0)
  by_time = (jnp.moveaxis(rewards, -1, 0), jnp.moveaxis(mask, -1, 0))
  samples = rewards.shape[:-1]
  end = jnp.zeros(samples, rewards.dtype)
  _, returns = jax.lax.scan(back, end, by_time, reverse=True)
  by_sample = jnp.moveaxis(returns, 0, -1)
  return whiten(by_sample, mask)


def reinforce_pp_baseline(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """r − mean of the group, at every token, whitened over the batch (REINFORCE++-baseline, arXiv 2501.03262).

  rewards: [P, G]; mask: bool [P, G, T]; returns float32 [P, G, T]. A sample without tokens enters no mean.
  """
  has_tokens = mask.any(-1)
  centred = dr_grpo(rewards, has_tokens)
  return _whitened_at_tokens(centred, mask)


def _whitened_at_tokens(advantages: jax.Array, mask: jax.Array) -> jax.Array:
  """Advantages of samples [P, G] at each of their tokens [P, G, T], whitened over the tokens of the mask."""
  by_token = jnp.broadcast_to(advantages[..., None], mask.shape)
  return whiten(by_token, mask)


def treepo(
  rewards: jax.Array, common: np.ndarray, mask: jax.Array, *, by_size: bool = False, reject: bool = False
) -> jax.Array:
  """r − mean, averaged over the groups that share 0, 1, 2, … segments, whitened (TreePO, arXiv 2508.17445 §2.3).

  rewards: [P, G]; common: int32 [P, G, G] of `common_segments`; mask: bool [P, G, T]; returns float32 [P, G, T], the
  same at every token of a sample. by_size: the mean over groups is weighted by their sizes. reject: groups within the
  tree whose rewards are all equal are left out. A sample without tokens enters no mean. Without shared segments this is
  `reinforce_pp_baseline`.
  """
  has_tokens = mask.any(-1)
  centred = tree_centred(rewards, common, has_tokens, by_size=by_size, reject=reject)
  return _whitened_at_tokens(centred, mask)
