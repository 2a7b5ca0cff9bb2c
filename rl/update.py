"""The loss of one policy update, for training (`rl.online`) and for planning (`rl.plan`) alike."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

import internvl
from core import params
from core.train import Loss
from rl import losses, policy


@struct.dataclass
class Rollouts:
  """A batch: B prompts with G answers each of up to N tokens. Answers without a reward have an empty mask."""

  prompts: policy.Prompts
  answers: policy.Answers
  advantages: Any  # float32 [B, G, 1 or N]
  old_logp: Any  # float32 [B, G, N] under the weights that sampled
  fresh: Any  # bool [B]: the update starts from those weights, so the ratio is exactly 1


def update_loss(weights: internvl.Params, batch: Rollouts, key, *, config: internvl.Config, rule: losses.Rule,
                temperature: float = 1.0, dtype='float32', remat: str = 'none') -> Loss:
  """`rl.losses.policy_loss` of a batch under float32 weights used in `dtype`; with entropy and the sampler's gap."""
  logp, entropy = policy.log_probs(params.cast(weights, dtype), config, batch.prompts, batch.answers,
                                   temperature=temperature, remat=remat)
  mask, sampled = batch.answers.mask, batch.answers.logp
  # Log-probabilities of another program would differ in the last bits.
  old = jnp.where(batch.fresh[:, None, None], jax.lax.stop_gradient(logp), batch.old_logp)
  out = losses.policy_loss(logp, old, batch.advantages, mask, rule=rule,
                           rollout_logp=sampled if rule.importance_cap else None)
  gap = jnp.abs(jax.lax.stop_gradient(logp) - sampled)
  notes = {name: losses.aggregate(v, mask, 'token') for name, v in (('entropy', entropy), ('sampler_gap', gap))}
  return out.replace(metrics=out.metrics | notes)
