"""Estimates of KL(policy ‖ reference) from the tokens that the policy sampled (Schulman 2020)."""

import jax
import jax.numpy as jnp

MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


def k1(d: jax.Array) -> jax.Array:
  """d, unbiased; the other sign is as likely as not."""
  return d


def k2(d: jax.Array) -> jax.Array:
  """d²/2, biased; its gradient is the divergence's."""
  return d * d / 2


def k3(d: jax.Array) -> jax.Array:
  """exp(−d) − 1 + d, unbiased and never negative; bounded as verl bounds it."""
  d = -jnp.clip(-d, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  return jnp.clip(jnp.exp(-d) - 1 + d, -MAX_K3, MAX_K3)


KL = {'k1': k1, 'k2': k2, 'k3': k3}


def kl(logp: jax.Array, ref_logp: jax.Array, estimator: str) -> jax.Array:
  """Per-token estimate of the divergence, of the shape of both log-probabilities."""
  return KL[estimator](logp - ref_logp)
