"""Advantages of a sample, from the rewards of its group.

P prompts   G samples of each   R reward components   T tokens

`valid` bool [P, G] marks the samples that count; the others enter no mean and get advantage 0. None counts all.
"""

import jax
import jax.numpy as jnp

from rl.advantages.whitening import flat, whiten

STD_EPS = 1e-6


def _all(rewards, valid):
  """`valid`, or every sample if it is None."""
  if valid is None:
    return jnp.ones(rewards.shape, bool)
  return valid


def _centred(rewards, valid):
  """(rewards minus their group's mean, number of samples [P, 1]); a group of one keeps its reward, as in verl."""
  n = valid.sum(-1, keepdims=True)
  counted = jnp.where(valid, rewards, 0)
  total = counted.sum(-1, keepdims=True)
  mean = total / jnp.maximum(n, 1)
  is_alone = n == 1
  centred = jnp.where(is_alone, rewards, rewards - mean)
  are_equal = flat(rewards, valid)[..., None]
  has_no_signal = are_equal & (n > 1)
  counts = valid & ~has_no_signal
  return jnp.where(counts, centred, 0), n


def grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Group-normalised rewards (GRPO, arXiv 2402.03300 §4.1): float32 [P, G] to [P, G].

  (r − mean)/(std + 1e-6) with the unbiased standard deviation of the group. A group whose rewards are all equal has
  advantage 0; a group of one keeps its reward (mean 0, std 1), as in verl.
  """
  valid = _all(rewards, valid)
  centred, n = _centred(rewards, valid)
  squares = jnp.sum(centred**2, -1, keepdims=True)
  variance = squares / jnp.maximum(n - 1, 1)
  deviation = jnp.sqrt(variance)
  normalised = centred / (deviation + STD_EPS)
  is_alone = n == 1
  return jnp.where(is_alone, centred, normalised)


def dr_grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the group (Dr. GRPO, arXiv 2503.20783 §3.2): float32 [P, G] to [P, G].

  A group of one keeps its reward.
  """
  valid = _all(rewards, valid)
  centred, _ = _centred(rewards, valid)
  return centred


def rloo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the other samples of the group (RLOO, arXiv 2402.14740): float32 [P, G] to [P, G].

  A group of one keeps its reward.
  """
  valid = _all(rewards, valid)
  centred, n = _centred(rewards, valid)
  # r − (mean of the others) = n/(n − 1)·(r − mean of all)
  others = jnp.maximum(n - 1, 1)
  has_others = n > 1
  scale = jnp.where(has_others, n / others, 1)
  return centred * scale


def win_rate(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`grpo` of win rates: the share of a group's other samples that a reward exceeds, ties by half: [P, G] to [P, G].

  Only the order of the rewards matters (Pref-GRPO, arXiv 2508.20751, its ablation with scores as win rates). A judge
  that compares samples itself is a reward, `rl.rewards.pairwise.Pairwise`, with `grpo`.
  """
  valid = _all(rewards, valid)
  own = rewards[..., :, None]
  other = rewards[..., None, :]
  ties = jnp.where(own == other, 0.5, 0.0)
  points = jnp.where(own > other, 1.0, ties)
  samples = rewards.shape[-1]
  itself = jnp.eye(samples, dtype=bool)
  against = valid[..., None, :] & ~itself
  counted = jnp.where(against, points, 0.0)
  won = counted.sum(-1)
  opponents = jnp.maximum(against.sum(-1), 1)
  return grpo(won / opponents, valid)


def decoupled(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Σ_r w_r · grpo(component r), each component normalised separately so that none dominates: [P, G, R] to [P, G].

  weights: [R]. (Multi-reward optimisation of Vision-SR1, arXiv 2508.19652; the first step of `gdpo`.)
  """
  components = range(rewards.shape[-1])
  parts = [grpo(rewards[..., r], valid) for r in components]
  weighted = jnp.stack(parts, -1) * jnp.asarray(weights)
  return jnp.sum(weighted, -1)


MOST_KINDS = 4  # of trajectories in a group


def by_kind(rewards: jax.Array, kind: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`grpo` of each kind of trajectory in a group separately: [P, G] to [P, G]; kind: int32 [P, G], below `MOST_KINDS`.

  (Vision-SR1's two rollouts, arXiv 2508.19652 version 2.)
  """
  valid = _all(rewards, valid)
  parts = [grpo(rewards, valid & (kind == k)) for k in range(MOST_KINDS)]
  return sum(parts)


def gdpo(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`decoupled`, whitened over all samples of the batch (GDPO, arXiv 2601.05242): [P, G, R] to [P, G]."""
  counted = _all(rewards[..., 0], valid)
  advantages = decoupled(rewards, weights, valid)
  return whiten(advantages, counted)
