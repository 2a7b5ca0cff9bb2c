"""One policy update: its batch, its loss, its step; for training (`rl.train`) and planning (`core.plan`) alike."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

import internvl
from core import params
from core.training import optim, steps
from core.training.steps import Loss
from rl import losses, policy
from rl.advantages import ADVANTAGES
from rl.configs import Config


@struct.dataclass
class Rollouts:
  """A batch: B prompts with G answers each of up to N tokens. Answers without a reward have an empty mask."""

  prompts: policy.Prompts
  answers: policy.Answers
  advantages: Any  # float32 [B, G, 1 or N]
  old_logp: Any  # float32 [B, G, N] under the weights that sampled
  fresh: Any  # bool [B]: the update starts from those weights, so the ratio is exactly 1


def reward_loss(
  logp: jax.Array,
  entropy: jax.Array,
  sampled: jax.Array,
  old_logp: jax.Array,
  fresh: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  rule: losses.Rule,
) -> Loss:
  """`rl.losses.policy_loss` with entropy and the sampler's gap beside it, of tokens float32 [..., T].

  sampled: log-probabilities as the engine sampled. old_logp: under the weights that sampled; not looked at in rows of
  `fresh`, bool [...], which start from those: log-probabilities of another program would differ in the last bits, and
  the ratio there is exactly 1.
  """
  old = jnp.where(fresh[..., None], jax.lax.stop_gradient(logp), old_logp)
  out = losses.policy_loss(
    logp, old, advantages, mask, rule=rule, rollout_logp=sampled if rule.importance_cap else None
  )
  gap = jnp.abs(jax.lax.stop_gradient(logp) - sampled)
  notes = {name: losses.aggregate(v, mask, 'token') for name, v in (('entropy', entropy), ('sampler_gap', gap))}
  return out.replace(metrics=out.metrics | notes)


def update_loss(
  weights: internvl.Params,
  batch: Rollouts,
  key,
  *,
  config: internvl.Config,
  rule: losses.Rule,
  temperature: float = 1.0,
  dtype='float32',
  remat: str = 'none',
) -> Loss:
  """`reward_loss` of a batch under float32 weights used in `dtype`."""
  logp, entropy = policy.log_probs(
    params.cast(weights, dtype), config, batch.prompts, batch.answers, temperature=temperature, remat=remat
  )
  fresh = jnp.broadcast_to(batch.fresh[:, None], logp.shape[:2])
  return reward_loss(
    logp, entropy, batch.answers.logp, batch.old_logp, fresh, batch.advantages, batch.answers.mask, rule
  )


def adapt(c: Config, weights: internvl.Params) -> tuple[Any, Any]:
  """(trainable, frozen) parts of the weights, the frozen one in `c.dtype`. Raises ValueError when none is to train."""
  trained, frozen = steps.partition(weights, c.trainable or '.*')
  return trained, params.cast(frozen, c.dtype)


def optimizer(c: Config, m: internvl.Config):
  """The optimiser and its schedule over the whole run."""
  return optim.optimizer(c.optim, c.steps * c.updates, internvl.spec(m))


def make_step(c: Config, m: internvl.Config, *, places: Any = None):
  """The jitted `step(state, frozen, batch: Rollouts, key) -> (state, metrics)` of `core.training.steps.make_step`."""
  loss = functools.partial(update_loss, config=m, rule=c.rule, temperature=c.temperature, dtype=c.dtype, remat=c.remat)
  return steps.make_step(loss, optimizer(c, m), accumulate=c.accumulate, places=places)


def abstract_rollouts(c: Config, m: internvl.Config) -> Rollouts:
  """The shapes and dtypes of an update's batch, where the config says how long prompts are and how many tiles."""
  b, side = c.prompts // c.updates, m.vision.image_size
  an = lambda dtype, *shape: jax.ShapeDtypeStruct((b, *shape), dtype)
  prompt, answer = an(jnp.int32, c.prompt_length), (c.group, c.max_new)
  logp = an(jnp.float32, *answer)
  return Rollouts(
    policy.Prompts(prompt, prompt, an(jnp.float32, c.tiles, side, side, 3)),
    policy.Answers(an(jnp.int32, *answer), logp, an(jnp.bool_, *answer)),
    logp if ADVANTAGES[c.advantage].per_token else an(jnp.float32, c.group, 1),
    logp,
    an(jnp.bool_),
  )
