"""Advantages from rewards, one function a published rule.

P prompts   G samples of each   R kinds of reward   T tokens

`valid` bool [P, G] leaves samples out, such as those whose reward could not be computed: they count in no mean and
have advantage 0. None keeps all.
"""

import jax
import jax.numpy as jnp

STD_EPS = 1e-6
WHITEN_EPS = 1e-8


def _centred(rewards, valid):
  """(rewards less the mean of their group, number of samples [P, 1]); a group of one keeps its reward, as in verl."""
  n = valid.sum(-1, keepdims=True)
  mean = jnp.where(valid, rewards, 0).sum(-1, keepdims=True) / jnp.maximum(n, 1)
  return jnp.where(valid, rewards - jnp.where(n == 1, 0, mean), 0), n


def _all(rewards, valid):
  return jnp.ones(rewards.shape, bool) if valid is None else valid


def grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Group-normalised rewards (GRPO, arXiv 2402.03300 §4.1): float32 [P, G] to [P, G].

  (r − mean)/(std + 1e-6) with the unbiased standard deviation of the group. A group whose rewards are all equal has
  advantage 0; a group of one keeps its reward (mean 0, std 1), as in verl.
  """
  centred, n = _centred(rewards, _all(rewards, valid))
  variance = jnp.sum(centred**2, -1, keepdims=True) / jnp.maximum(n - 1, 1)
  return jnp.where(n == 1, centred, centred / (jnp.sqrt(variance) + STD_EPS))


def dr_grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the group (Dr. GRPO, arXiv 2503.20783 §3.2): float32 [P, G] to [P, G]. A group of one keeps its own."""
  return _centred(rewards, _all(rewards, valid))[0]


def rloo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the others of the group (RLOO, arXiv 2402.14740): float32 [P, G] to [P, G].

  A group of one keeps its reward.
  """
  centred, n = _centred(rewards, _all(rewards, valid))
  return centred * jnp.where(n > 1, n / jnp.maximum(n - 1, 1), 1)


def whiten(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Values less their mean, over their unbiased standard deviation; both over all of `mask`, 0 outside it.

  Any one shape; give it the whole batch of all devices, before it is cut into updates.
  """
  n = jnp.maximum(mask.sum(), 1)
  mean = jnp.where(mask, values, 0).sum() / n
  centred = jnp.where(mask, values - mean, 0)
  return centred * jax.lax.rsqrt(jnp.sum(centred**2) / jnp.maximum(n - 1, 1) + WHITEN_EPS)


def token_rewards(
  rewards: jax.Array, mask: jax.Array, divergence: jax.Array | None = None, kl_coef: float = 0.0
) -> jax.Array:
  """[P, G, T]: the reward of a sample [P, G] at its last token, less kl_coef·divergence [P, G, T] at every token.

  (REINFORCE++, arXiv 2501.03262; the divergence there is k1 from the reference policy.)
  """
  last = mask & (jnp.cumsum(mask, -1) == mask.sum(-1, keepdims=True))
  placed = jnp.where(last, rewards[..., None], 0.0)
  return placed if divergence is None else placed - kl_coef * jnp.where(mask, divergence, 0.0)


def reinforce_pp(rewards: jax.Array, mask: jax.Array, gamma: float = 1.0) -> jax.Array:
  """Returns of token rewards, whitened over the batch (REINFORCE++, arXiv 2501.03262): float32 [P, G, T].

  rewards: [P, G, T] from `token_rewards`; the return is Σ_{t' ≥ t} γ^(t' − t) r_t' over the tokens of `mask`, which
  alone count as steps.
  """

  def back(later, now):
    reward, here = now
    value = jnp.where(here, reward + gamma * later, later)
    return value, value

  first = lambda x: jnp.moveaxis(x, -1, 0)
  rewards = jnp.where(mask, rewards, 0.0)
  _, returns = jax.lax.scan(
    back, jnp.zeros(rewards.shape[:-1], rewards.dtype), (first(rewards), first(mask)), reverse=True
  )
  return whiten(jnp.moveaxis(returns, 0, -1), mask)


def reinforce_pp_baseline(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """r − mean of the group, at every token, whitened over the batch (REINFORCE++-baseline, arXiv 2501.03262).

  rewards: [P, G]; mask: bool [P, G, T]; returns float32 [P, G, T]. A sample without tokens counts in no mean.
  """
  centred = dr_grpo(rewards, mask.any(-1))
  return whiten(jnp.broadcast_to(centred[..., None], mask.shape), mask)


def decoupled(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Σ_r w_r · grpo(reward r): each kind normalised by itself, so that none drowns another: [P, G, R] to [P, G].

  weights: [R]. (Multi-reward optimisation of Vision-SR1, arXiv 2508.19652; the first step of `gdpo`.)
  """
  parts = jnp.stack([grpo(rewards[..., r], valid) for r in range(rewards.shape[-1])], -1)
  return jnp.sum(parts * jnp.asarray(weights), -1)


def gdpo(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`decoupled`, whitened over all samples of the batch (GDPO, arXiv 2601.05242): [P, G, R] to [P, G]."""
  return whiten(decoupled(rewards, weights, valid), _all(rewards[..., 0], valid))
