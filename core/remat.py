"""Rematerialisation: what a layer keeps for the backward pass, by name; and how its stack is looped over."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core.mesh import partitioning, platform

SHORT = 8  # layers that a program for a CPU may hold one by one

POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def remat(layer: Callable, policy: str | None) -> Callable:
  """`layer(x, i, block, …)` under a policy: 'none' keeps everything, 'dots' the weight products, 'full' nothing.

  None, for a forward pass by itself, changes nothing either.
  """
  if policy in (None, 'none'):
    return layer
  if policy not in POLICIES:
    raise ValueError(f'remat {policy!r}; expected one of {["none", *POLICIES]}')
  wrapped = jax.checkpoint(
    lambda i, x, *rest: layer(x, i, *rest), policy=POLICIES[policy], static_argnums=(), prevent_cse=False
  )
  return lambda x, i, *rest: wrapped(i, x, *rest)


def unroll(x: Any, policy: str | None, depth: int) -> int:
  """Layers in one iteration of the loop over a stack of `depth`: all of a short one on one CPU device, else 1.

  x: the activations, arrays in a tree. A loop copies each layer's weights out of the stack, and its activations and
  gradients into one. Three kinds of stacks keep it. A forward pass by itself is up to a tenth faster with it, and
  inside a decoding loop it would hold copies of the weights. With rematerialisation, XLA for CPU would recompute all
  layers before it uses the first, and save no memory. In bfloat16 it rounds between two fusions only: those that reach
  over layers differ between programs, so a policy would not give its samples the probability that they were drawn with.
  """
  is_short = depth <= SHORT and policy == 'none'
  is_exact = all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x))
  if is_short and is_exact and platform() == 'cpu' and partitioning() is None:
    return depth
  return 1
