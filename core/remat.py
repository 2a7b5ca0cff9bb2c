"""Which activations a backward pass keeps, by name.

Rematerialisation trades arithmetic for memory: what is not kept is computed again (Chen et al. 2016,
arXiv 1604.06174). A model wraps its block once, and its config names the policy.
"""

from collections.abc import Callable

import jax

# What the forward pass keeps: everything; only the block's input; matmuls whose operands share no batch
# dimension (all projections, but not the attention scores); every matmul.
POLICIES = {
  'none': jax.checkpoint_policies.everything_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'dots_all': jax.checkpoint_policies.dots_saveable,
}


def remat(fn: Callable, policy: str, *, scanned: bool = True) -> Callable:
  """`fn` with the named policy; the values are those of `fn`, only memory and time differ.

  `scanned`: `fn` is the body of `lax.scan`, whose structure already keeps XLA from merging the two passes,
  so the optimisation barriers that `jax.checkpoint` otherwise adds are left out.

  Raises ValueError for an unknown policy.
  """
  if policy not in POLICIES:
    raise ValueError(f'remat={policy!r}: expected one of {", ".join(POLICIES)}')
  if policy == 'none':
    return fn
  return jax.checkpoint(fn, policy=POLICIES[policy], prevent_cse=not scanned)
