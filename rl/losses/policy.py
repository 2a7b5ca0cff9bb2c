"""The policy-gradient loss of a batch, put together as a `Rule` says; `RULES` holds the published ones.

B rows, on any number of leading axes   T tokens
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from core.launch.fields import field
from core.training.steps import Loss
from rl.losses.aggregation import AGGREGATIONS, Aggregation, aggregate
from rl.losses.divergence import Kl, kl
from rl.losses.surrogate import MAX_LOG_RATIO, SURROGATES


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a token's gain is clipped and how tokens are averaged."""

  surrogate: Literal[tuple(SURROGATES)] = field('ppo', 'which ratio, and what clipping does to it')
  clip_low: float = field(0.2, 'the ratio is clipped below at 1 − clip_low')
  clip_high: float = field(0.2, 'the ratio is clipped above at 1 + clip_high; larger than clip_low is DAPO clip-higher')
  dual_clip: float | None = field(3.0, 'where the advantage is negative the loss is at most dual_clip·|A|; none: off')
  aggregation: Aggregation = field(
    'token',
    'mean over all tokens of the batch (token), or over rows of their token '
    'means (sequence), token sums (sequence_sum), token sums over `length`',
  )
  length: int | None = field(None, "divisor of aggregation='constant': the longest response there may be")
  kl: Kl = field(Kl(), 'distance from a reference policy')
  importance_cap: float | None = field(
    None,
    'cap of the weight that corrects for the sampler, whose probabilities differ from those of the trainer before the '
    'update by rounding and, when it samples ahead, by age; none: no such weight',
  )

  def __post_init__(self):
    inf = float('inf')
    cap = self.importance_cap
    dual = self.dual_clip
    if not 0 <= self.clip_low <= 1:
      raise ValueError(f'clip_low={self.clip_low}: expected a number from 0 to 1')
    if not 0 <= self.clip_high < inf:
      raise ValueError(f'clip_high={self.clip_high}: expected zero or a positive number')
    if cap is not None and not 0 < cap < inf:
      raise ValueError(f'importance_cap={cap}: expected a positive number, or none')
    for name, allowed in (('surrogate', SURROGATES), ('aggregation', AGGREGATIONS)):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name}={getattr(self, name)!r}: expected one of {", ".join(allowed)}')
    if dual is not None and not (1 < dual < inf and self.surrogate == 'ppo'):
      raise ValueError(f'dual_clip={dual}: expected more than 1 with surrogate=ppo, or none')
    needs_length = self.aggregation == 'constant'
    has_length = self.length is not None
    if needs_length != has_length or (has_length and self.length < 1):
      raise ValueError(f"length={self.length}: expected 1 or more with aggregation='constant', else none")

  @property
  def proximal(self) -> bool:
    """Whether ratios start from the trainer's policy before the update, and the cap's weight makes up for the sampler.

    Otherwise ratios of a rollout sampled by older weights start from the sampler. (Decoupled PPO, arXiv 2110.00641.)
    """
    return self.importance_cap is not None


_GSPO = Rule('gspo', clip_low=3e-4, clip_high=4e-4, dual_clip=None, aggregation='sequence')

RULES = {
  'ppo': Rule(),  # PPO-clip (arXiv 1707.06347) with the dual clip of arXiv 1912.09729
  'grpo': Rule(dual_clip=None, aggregation='sequence'),  # arXiv 2402.03300 eq. 3
  'dapo': Rule(clip_high=0.28, dual_clip=None),  # arXiv 2503.14476 eq. 8
  'treepo': Rule(clip_high=0.28, dual_clip=10.0),  # arXiv 2508.17445 and its training script
  # arXiv 2503.20783 §3.2, with `rl.advantages.dr_grpo`; `length` should be the run's longest answer.
  'dr_grpo': Rule(dual_clip=None, aggregation='constant', length=4096),
  # arXiv 2507.18071 eq. 5 and its bounds. The scripts of InternVL3.5 keep 0.2 on both sides, which never binds.
  'gspo': _GSPO,
  'gspo_token': dataclasses.replace(_GSPO, surrogate='gspo_token'),
  # Flow policies (arXiv 2505.05470, 2508.20751): log-probabilities are means over a latent's entries, hence the bounds.
  'pref_grpo': Rule(clip_low=1e-4, clip_high=1e-4, dual_clip=None),
  # arXiv 2506.13585 eq. 4: no lower bound; it does not print the upper one, here DAPO's.
  'cispo': Rule('cispo', clip_low=1.0, clip_high=0.28, dual_clip=None),
}


def truncated_importance(old_logp: jax.Array, rollout_logp: jax.Array, cap: float) -> jax.Array:
  """min(π_old(y_t)/π_rollout(y_t), cap), without gradient, of the shape of both log-probabilities.

  Truncated importance sampling (Yao et al. 2025): the engine samples from π_rollout, which rounding makes another
  distribution than the trainer's π_old of the same weights.
  """
  ratio = jnp.exp(jnp.clip(old_logp - rollout_logp, -MAX_LOG_RATIO, MAX_LOG_RATIO))
  return jax.lax.stop_gradient(jnp.minimum(ratio, cap))


def policy_loss(
  logp: jax.Array,
  old_logp: jax.Array | None,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  rule: Rule,
  ref_logp: jax.Array | None = None,
  rollout_logp: jax.Array | None = None,
  divergence: jax.Array | None = None,
  weight: jax.Array | None = None,
) -> Loss:
  """The loss of tokens sampled by an older policy.

  logp, old_logp, ref_logp, rollout_logp: float32 [B, T] log-probabilities of the sampled tokens under the policy
  being trained, the policy before the update (None while they are the same: the ratio is exactly 1, its gradient is
  not 0), the reference (needed when rule.kl is in the loss), and the sampler (needed with rule.importance_cap).
  advantages: [B, 1] or [B, T]. mask: bool [B, T], true where the policy chose the token. divergence: [B, T] from the
  reference, where it is known exactly, in place of an estimate from ref_logp. weight: [B, T], factors of the clipped
  loss.
  Raises ValueError when the rule needs log-probabilities that are missing.
  """
  if rule.kl.in_loss and ref_logp is None and divergence is None:
    raise ValueError(f'kl.coef={rule.kl.coef} in the loss needs ref_logp')
  if rule.importance_cap is not None and rollout_logp is None:
    raise ValueError(f'importance_cap={rule.importance_cap} needs rollout_logp')
  # Padding is zeroed first, so that its values reach neither the loss nor its gradient.
  inside = lambda x: None if x is None else jnp.where(mask, x, 0.0)
  logp, old_logp, advantages, ref_logp, rollout_logp = map(inside, (logp, old_logp, advantages, ref_logp, rollout_logp))
  if old_logp is None:
    old_logp = jax.lax.stop_gradient(logp)
  delta = logp - old_logp
  plain, loss, ratio = SURROGATES[rule.surrogate](delta, logp, advantages, mask, rule)
  metrics = {'clipped': loss != plain, 'approx_kl': -delta, 'ratio': ratio}
  if rule.dual_clip is not None:
    metrics['dual_clipped'] = loss < plain
  if rule.importance_cap is not None:
    metrics['importance'] = correction = truncated_importance(old_logp, rollout_logp, rule.importance_cap)
    loss = loss * correction
  if weight is not None:
    loss = loss * weight
  if ref_logp is not None:
    divergence = kl(logp, ref_logp, rule.kl.estimator)
  if divergence is not None:
    metrics['kl'] = divergence
    if rule.kl.in_loss:
      loss = loss + rule.kl.coef * divergence
  total, count = aggregate(loss, mask, rule.aggregation, length=rule.length)
  means = {}
  for name, value in metrics.items():
    means[name] = aggregate(jax.lax.stop_gradient(value), mask, 'token')
  return Loss(total, count, means)
