"""Rematerialisation: what a layer keeps for the backward pass, by name."""

from collections.abc import Callable

import jax

POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def remat(layer: Callable, policy: str) -> Callable:
  """`layer(x, i, block, …)` under a policy: 'none' keeps everything, 'dots' the weight products, 'full' nothing."""
  if policy == 'none':
    return layer
  if policy not in POLICIES:
    raise ValueError(f'remat {policy!r}; expected one of {["none", *POLICIES]}')
  wrapped = jax.checkpoint(
    lambda i, x, *rest: layer(x, i, *rest), policy=POLICIES[policy], static_argnums=(), prevent_cse=False
  )
  return lambda x, i, *rest: wrapped(i, x, *rest)
