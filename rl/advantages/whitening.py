"""Two operations that advantages share: whether values carry a signal, and whitening over a batch."""

import jax
import jax.numpy as jnp

WHITEN_EPS = 1e-8


def flat(values: jax.Array, counted: jax.Array | None = None, axis: int | None = -1) -> jax.Array:
  """Whether the counted values along `axis` are all equal (or none is counted): bool, without that axis.

  The only test for a group without a signal. It compares max and min, because means round: the float32 mean of 16
  rewards of 0.7 is not 0.7, and dividing that difference by a tiny deviation would turn it into an advantage.
  """
  if counted is None:
    counted = jnp.ones(values.shape, bool)
  highest = jnp.max(values, axis, where=counted, initial=-jnp.inf)
  lowest = jnp.min(values, axis, where=counted, initial=jnp.inf)
  return highest <= lowest


def whiten(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Values minus their mean, over their unbiased standard deviation; both over all of `mask`, 0 outside it.

  values: float32 and mask: bool, of one shape. Pass the whole batch of all devices, before it is split into updates.
  """
  n = jnp.maximum(mask.sum(), 1)
  mean = jnp.where(mask, values, 0).sum() / n
  centred = jnp.where(mask & ~flat(values, mask, axis=None), values - mean, 0)
  variance = jnp.sum(centred**2) / jnp.maximum(n - 1, 1)
  return centred * jax.lax.rsqrt(variance + WHITEN_EPS)
