"""One policy update: its loss and its step; for training (`rl.run`) and planning (`core.plan`) alike."""

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


def reward_loss(logp: jax.Array, entropy: jax.Array | None, batch: Batch, rule: losses.Rule) -> Loss:
  """`rl.losses.policy_loss` of tokens float32 […], with their entropy and the engine's gap as metrics.

  In rows of `batch.fresh` the old log-probabilities are the present ones: those of another program would differ in the
  last bits, and the ratio there is exactly 1.
  """
  fresh = batch.fresh.reshape(-1, *(1,) * (logp.ndim - 1))
  old = jnp.where(fresh, jax.lax.stop_gradient(logp), batch.old_logp)
  rollout_logp = batch.sampled if rule.importance_cap else None
  out = losses.policy_loss(
    logp, old, batch.advantages, batch.mask, rule=rule, ref_logp=batch.ref_logp, rollout_logp=rollout_logp
  )
  notes = {'sampler_gap': jnp.abs(jax.lax.stop_gradient(logp) - batch.sampled)}
  if entropy is not None:
    notes['entropy'] = entropy
  averaged = {name: losses.aggregate(values, batch.mask, 'token') for name, values in notes.items()}
  return out.replace(metrics=out.metrics | averaged)


def update_loss(weights: Any, batch: Batch, key: Any, *, score: Pass, rule: losses.Rule) -> Loss:
  """`reward_loss` of a batch."""
  return reward_loss(*score(weights, batch.inputs), batch, rule)


def adapt(weights: Any, trainable: str, dtype: str) -> tuple[Any, Any]:
  """(trainable, frozen) parts of the weights, the frozen one in `dtype`. Raises ValueError when none is to train."""
  trained, frozen = steps.partition(weights, trainable or '.*')
  return trained, params_lib.cast(frozen, dtype)


def make_step(score: Pass, rule: losses.Rule, tx: Any, *, accumulate: int = 1, places: Any = None) -> Callable:
  """The jitted `step(state, frozen, batch, key) -> (state, metrics)` of `core.training.steps.make_step`."""
  return steps.make_step(
    functools.partial(update_loss, score=score, rule=rule), tx, accumulate=accumulate, places=places
  )


def optimizer(policy: Policy, config: Optim, updates: int) -> Any:
  """The optimiser and its schedule over `updates`."""
  return optim.optimizer(config, updates, policy.spec())
