"""Policy-gradient losses over sampled tokens, as sums with their weights (`core.train.Loss`).

B answers, on any number of leading axes   T sampled-token slots
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from core.launch import field
from core.train import Loss

MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


def _k3(d):
  """exp(−d) − 1 + d, unbiased and non-negative (Schulman 2020), bounded as verl bounds it."""
  d = -jnp.clip(-d, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  return jnp.clip(jnp.exp(-d) - 1 + d, -MAX_K3, MAX_K3)


KL = {'k1': lambda d: d, 'k2': lambda d: d * d / 2, 'k3': _k3}


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a token's gain is clipped and how tokens are averaged."""

  clip_low: float = field(0.2, 'the ratio is clipped below at 1 − clip_low')
  clip_high: float = field(0.2, 'the ratio is clipped above at 1 + clip_high; larger than clip_low is DAPO clip-higher')
  dual_clip: float | None = field(3.0, 'where the advantage is negative the loss is at most dual_clip·|A|; none: off')
  aggregation: Literal['token', 'sequence'] = field('token', 'mean over all tokens, or over rows of their token means')
  kl: Literal['k1', 'k2', 'k3'] = field('k3', 'estimator of the divergence from the reference policy')
  kl_coef: float = field(0.0, 'weight of that divergence in the loss')

  def __post_init__(self):
    if not 0 <= self.clip_low <= 1:
      raise ValueError(f'clip_low={self.clip_low}: expected a number from 0 to 1')
    if self.clip_high < 0 or self.kl_coef < 0:
      raise ValueError(f'clip_high={self.clip_high}, kl_coef={self.kl_coef}: expected zero or more')
    if self.dual_clip is not None and self.dual_clip <= 1:
      raise ValueError(f'dual_clip={self.dual_clip}: expected more than 1, or none')
    if self.aggregation not in ('token', 'sequence'):
      raise ValueError(f"aggregation={self.aggregation!r}: expected 'token' or 'sequence'")
    if self.kl not in KL:
      raise ValueError(f'kl={self.kl!r}: expected one of {sorted(KL)}')


RULES = {
    'ppo': Rule(),  # PPO-clip (arXiv 1707.06347) with the dual clip of arXiv 1912.09729
    'grpo': Rule(dual_clip=None, aggregation='sequence'),  # arXiv 2402.03300 eq. 3
    'dapo': Rule(clip_high=0.28, dual_clip=None),  # arXiv 2503.14476 §3
}


def kl(logp: jax.Array, ref_logp: jax.Array, estimator: str) -> jax.Array:
  """Per-token estimate [B, T] of KL(policy ‖ reference) at tokens the policy sampled."""
  return KL[estimator](logp - ref_logp)


def aggregate(values: jax.Array, mask: jax.Array, aggregation: str) -> tuple[jax.Array, jax.Array]:
  """(sum, weight) of per-token `values` [B, T] over `mask`: their quotient over the whole batch is the mean.

  'token': Σ m·v over Σ m. 'sequence': the sum of rows' token means over the number of rows that have tokens.
  """
  values = jnp.where(mask, values, 0.0)
  if aggregation == 'token':
    return values.sum(), mask.sum().astype(jnp.float32)
  length = mask.sum(-1)
  return jnp.sum(values.sum(-1) / jnp.maximum(length, 1)), (length > 0).sum().astype(jnp.float32)


def policy_loss(logp: jax.Array, old_logp: jax.Array, advantages: jax.Array, mask: jax.Array, *, rule: Rule,
                ref_logp: jax.Array | None = None) -> Loss:
  """Clipped surrogate (PPO, arXiv 1707.06347 eq. 7) of tokens sampled by an older policy.

  logp, old_logp, ref_logp: float32 [B, T] log-probabilities of the sampled tokens under the policy being trained, the
  policy that sampled, and the reference (needed when rule.kl_coef > 0). advantages: [B, 1] or [B, T]. mask: bool
  [B, T], true where the policy chose the token.
  """
  if rule.kl_coef and ref_logp is None:
    raise ValueError(f'kl_coef={rule.kl_coef} needs ref_logp')
  delta = jnp.where(mask, logp - old_logp, 0.0)
  ratio = jnp.exp(jnp.clip(delta, -MAX_LOG_RATIO, MAX_LOG_RATIO))
  plain = -advantages * ratio
  clipped = -advantages * jnp.clip(ratio, 1 - rule.clip_low, 1 + rule.clip_high)
  loss = jnp.maximum(plain, clipped)
  if rule.dual_clip is not None:
    loss = jnp.where(advantages < 0, jnp.minimum(loss, -advantages * rule.dual_clip), loss)
  metrics = {'clipped': clipped > plain, 'approx_kl': -delta, 'ratio': ratio}
  if ref_logp is not None:
    metrics['kl'] = divergence = kl(logp, ref_logp, rule.kl)
    loss = loss + rule.kl_coef * divergence
  total, weight = aggregate(loss, mask, rule.aggregation)
  return Loss(total, weight, {k: aggregate(jax.lax.stop_gradient(v), mask, 'token') for k, v in metrics.items()})
