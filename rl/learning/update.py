"""One policy update, its loss and its step, used by training (`rl.run`) and by planning (`core.plan`)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.training import optim, steps
from core.training.optim import Optim
from core.training.steps import Loss
from rl import losses
from rl.learning.batch import Batch
from rl.policy import Policy


@dataclasses.dataclass(frozen=True)
class Pass:
  """How a forward pass over trajectories is made: at the temperature of sampling, in `dtype`, rematerialised or not."""

  policy: Policy
  temperature: float = 1.0
  dtype: str = 'float32'
  remat: str = 'none'

  def __call__(self, weights: Any, inputs: Any) -> tuple[jax.Array, jax.Array | None]:
    """(log-probabilities, entropy) as of `Policy.log_probs`, of float32 weights used in `dtype`."""
    weights = params_lib.cast(weights, self.dtype)
    return self.policy.log_probs(weights, inputs, temperature=self.temperature, remat=self.remat)

  @property
  def exact(self) -> bool:
    """Whether the policy's divergence from a reference is known, not estimated from log-probabilities."""
    return hasattr(self.policy, 'divergent_log_probs')

  def reference(self, weights: Any, inputs: Any) -> Any:
    """What a divergence from these weights compares with: log-probabilities, or what the policy needs."""
    if not self.exact:
      return self(weights, inputs)[0]
    return self.policy.reference(params_lib.cast(weights, self.dtype), inputs)

  def divergent(self, weights: Any, inputs: Any, reference: Any) -> tuple[jax.Array, jax.Array]:
    """(log-probabilities, exact divergence from the reference)."""
    weights = params_lib.cast(weights, self.dtype)
    return self.policy.divergent_log_probs(weights, inputs, reference, remat=self.remat)


def reward_loss(
  logp: jax.Array,
  entropy: jax.Array | None,
  batch: Batch,
  rule: losses.Rule,
  *,
  kinds: tuple[str, ...] = (),
  divergence: jax.Array | None = None,
) -> Loss:
  """`rl.losses.policy_loss` of tokens float32 […], with entropy and the engine's gaps, mean and largest, as metrics.

  kinds: names of the kinds of `batch.kind`, for each of which entropy and clipping are given as well. In rows of
  `batch.fresh` the old log-probabilities are the present ones: those of another program would differ in the last bits,
  and the ratio there is exactly 1.
  """
  fresh = batch.fresh.reshape(-1, *(1,) * (logp.ndim - 1))
  old = jnp.where(fresh, jax.lax.stop_gradient(logp), batch.old_logp)
  rollout_logp = batch.sampled if rule.importance_cap else None

  def loss_over(mask: jax.Array) -> Loss:
    return losses.policy_loss(
      logp,
      old,
      batch.advantages,
      mask,
      rule=rule,
      ref_logp=batch.ref_logp,
      rollout_logp=rollout_logp,
      divergence=divergence,
      weight=batch.weight,
    )

  out = loss_over(batch.mask)
  gap = jnp.abs(jax.lax.stop_gradient(logp) - batch.sampled)
  largest = jnp.where(batch.mask, gap, 0.0).max()
  metrics = out.metrics | {'sampler_gap': losses.aggregate(gap, batch.mask, 'token')}
  if entropy is not None:
    metrics['entropy'] = losses.aggregate(entropy, batch.mask, 'token')
  for number, name in enumerate(kinds):
    mask = batch.mask & (batch.kind == number)
    metrics[f'clipped/{name}'] = loss_over(mask).metrics['clipped']
    if entropy is not None:
      metrics[f'entropy/{name}'] = losses.aggregate(entropy, mask, 'token')
  return out.replace(metrics=metrics, maxima={'sampler_gap_max': largest})


def update_loss(
  weights: Any, batch: Batch, key: Any, *, score: Pass, rule: losses.Rule, kinds: tuple[str, ...] = ()
) -> Loss:
  """`reward_loss` of a batch."""
  if rule.kl.in_loss and score.exact:
    logp, divergence = score.divergent(weights, batch.inputs, batch.ref_logp)
    return reward_loss(logp, None, batch.replace(ref_logp=None), rule, kinds=kinds, divergence=divergence)
  return reward_loss(*score(weights, batch.inputs), batch, rule, kinds=kinds)


def adapt(weights: Any, trainable: str, dtype: str) -> tuple[Any, Any]:
  """(trainable, frozen) parts of the weights, the frozen one in `dtype`. Raises ValueError when none is to train."""
  trained, frozen = steps.partition(weights, trainable or '.*')
  return trained, params_lib.cast(frozen, dtype)


def make_step(
  score: Pass,
  rule: losses.Rule,
  tx: Any,
  *,
  accumulate: int = 1,
  places: Any = None,
  kinds: tuple[str, ...] = (),
) -> Callable:
  """The jitted `step(state, frozen, batch, key) -> (state, metrics)` of `core.training.steps.make_step`."""
  loss = functools.partial(update_loss, score=score, rule=rule, kinds=kinds)
  return steps.make_step(loss, tx, accumulate=accumulate, places=places)


def optimizer(policy: Policy, config: Optim, updates: int) -> Any:
  """The optimiser and its schedule over `updates`."""
  return optim.optimizer(config, updates, policy.spec())
