"""Sinks of a finished softmax (GPT-OSS): one extra logit a head that takes part and is dropped."""

import jax
import jax.numpy as jnp


def with_sinks(out: jax.Array, lse: jax.Array, sinks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(out [R, N, H], lse [R, N]) with sinks [N]: a sink is a token of value 0, so its log-sum-exp alone is needed."""
  joint = jnp.logaddexp(lse, sinks.astype(lse.dtype))
  share = jnp.exp(lse - joint)
  scaled = out * share[..., None]
  return scaled.astype(out.dtype), joint
