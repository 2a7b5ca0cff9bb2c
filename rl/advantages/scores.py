"""The inputs of an advantage: rewards of groups, what counts, and how samples descend from each other.

P prompts   G samples of each   R reward components   T tokens
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Lineage:
  """How the samples of a group descend from each other; each int32 [P, G].

  parent: the place in the group of the sample that this one was forked from, −1 for none. segment: the first segment
  that it does not share with its parent. kind: a number assigned by the rollout plan, for example to tell solutions of
  original problems from those of synthesised ones.
  """

  parent: Any
  segment: Any
  kind: Any


@struct.dataclass
class Scores:
  """The inputs of an advantage."""

  rewards: Any  # float32 [P, G, R]
  weights: Any  # float32 [R] of the components in their sum
  valid: Any  # bool [P, G], false where the reward was lost
  mask: Any  # bool [P, G, T], the tokens that the policy chose
  penalty: Any = None  # float32 [P, G, T] subtracted at each token, a KL in the reward; None: no such term
  lineage: Lineage | None = None  # None: flat groups, sampled independently

  @property
  def counted(self) -> jax.Array:
    """Bool [P, G, T]: the tokens of valid samples."""
    return jnp.asarray(self.mask) & jnp.asarray(self.valid)[..., None]

  @property
  def sums(self) -> jax.Array:
    """Float32 [P, G]: Σ_r w_r · component r."""
    return jnp.sum(jnp.asarray(self.rewards) * jnp.asarray(self.weights), -1)

  @property
  def totals(self) -> jax.Array:
    """Float32 [P, G]: `sums`, minus the penalty of all tokens."""
    if self.penalty is None:
      return self.sums
    return self.sums - jnp.sum(jnp.where(self.counted, self.penalty, 0.0), -1)
