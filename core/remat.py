"""Rematerialisation: what a layer keeps for the backward pass, by name; and how its stack is looped over."""

from collections.abc import Callable

import jax

from core.mesh import partitioning, platform

SHORT = 8  # layers that a program for a CPU may hold one by one

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


def unroll(policy: str, depth: int) -> int:
  """Layers in one iteration of the loop over a stack of `depth`: all of a short one on one CPU device, else 1.

  A loop copies each layer's weights out of the stack, and its activations and gradients into one. Rematerialisation
  keeps the loop: without it, XLA for CPU recomputes all layers before it uses the first, and saves no memory.
  """
  is_short = depth <= SHORT and policy == 'none'
  if is_short and platform() == 'cpu' and partitioning() is None:
    return depth
  return 1
