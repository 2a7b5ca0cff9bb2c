"""Estimates of KL(policy ‖ reference) from the tokens that the policy sampled (Schulman 2020)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from core.launch.fields import field
from rl.losses.surrogate import MAX_LOG_RATIO

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


KL = {f.__name__: f for f in (k1, k2, k3)}


@dataclasses.dataclass(frozen=True)
class Kl:
  """A penalty of the divergence from a reference policy, in the loss or in the reward."""

  coef: float = field(0.0, 'weight of the divergence from the reference policy; 0: no reference policy')
  estimator: Literal[tuple(KL)] = field('k3', 'estimator of the divergence')
  where: Literal['loss', 'reward'] = field(
    'loss', 'a term of the loss with a gradient of its own, or subtracted from the rewards of tokens'
  )

  def __post_init__(self):
    if not 0 <= self.coef < float('inf'):
      raise ValueError(f'coef={self.coef}: expected zero or a positive number')
    for name, allowed in (('estimator', KL), ('where', ('loss', 'reward'))):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name}={getattr(self, name)!r}: expected one of {", ".join(allowed)}')

  @property
  def in_loss(self) -> bool:
    """Whether the loss has a term of it."""
    return self.coef > 0 and self.where == 'loss'

  @property
  def in_reward(self) -> bool:
    """Whether rewards of tokens are lowered by it."""
    return self.coef > 0 and self.where == 'reward'


def kl(logp: jax.Array, ref_logp: jax.Array, estimator: str) -> jax.Array:
  """Per-token estimate of the divergence, of the shape of both log-probabilities."""
  return KL[estimator](logp - ref_logp)
