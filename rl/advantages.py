"""Advantages from scalar rewards, one function a published rule.

P prompts   G samples of each
"""

import jax
import jax.numpy as jnp

STD_EPS = 1e-6


def grpo(rewards: jax.Array) -> jax.Array:
  """Group-normalised rewards (GRPO, arXiv 2402.03300 §4.1): float32 [P, G] to [P, G].

  (r − mean)/(std + 1e-6) with the unbiased standard deviation of the group. A group whose rewards are all equal has
  advantage 0; a group of one keeps its reward (mean 0, std 1), as verl does.
  """
  if rewards.shape[-1] == 1:
    return rewards
  centred = rewards - rewards.mean(-1, keepdims=True)
  std = jnp.sqrt(jnp.sum(centred**2, -1, keepdims=True) / (rewards.shape[-1] - 1))
  return centred / (std + STD_EPS)
