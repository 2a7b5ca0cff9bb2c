"""The policy update for `python -m core.plan --program=rl.train`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from core import mesh as mesh_lib
from core import params, plan
from core.plan.training import training
from rl import policy as policies
from rl.advantages import ADVANTAGES
from rl.configs import Config
from rl.learning import update
from rl.learning.batch import Batch
from rl.policy import Slots


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The update that `rl.train` makes on `mesh`, with all responses of `config.max_new` tokens, and what to count of it.

  The planned mesh is the one that updates; the engine samples elsewhere or at another time. Raises plan.PlanError when
  `config.model` is not the name of a size, or the config leaves the lengths of prompts to the data.
  """
  policy = policies.planned(config.model)
  if not config.prompt_length or not config.tiles:
    raise plan.PlanError(f'prompt_length={config.prompt_length}, tiles={config.tiles}: a plan needs 1 or more of both')
  spec = policy.spec()
  adapted = jax.eval_shape(lambda w: update.adapt(w, config.trainable, config.dtype), params.abstract(spec))
  weights = placed(adapted, spec, mesh)
  tx = update.optimizer(policy, config.optim, config.steps * config.updates)
  score = update.Pass(policy, config.temperature, config.dtype, config.remat)
  batch = abstract_batch(config, policy)
  return training(
    functools.partial(update.make_step, score, config.rule, tx, accumulate=config.accumulate),
    tx,
    weights,
    batch,
    mesh,
    parts=parts(config, policy),
    rows=batch.mask.shape[0] * config.group,
    micro_batches=config.accumulate,
    remat=config.remat,
  )


def placed(weights: Any, spec: Any, mesh: jax.sharding.Mesh) -> Any:
  """Abstract weights (trees of them), each where its `Spec` puts it."""
  places = {params.path_name(path): s for path, s in jax.tree.leaves_with_path(mesh_lib.shardings(spec, mesh))}

  def on(path, x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[params.path_name(path)])

  return tuple(jax.tree.map_with_path(on, part) for part in weights)


def slots(c: Config) -> Slots:
  """The sizes of a full update."""
  return Slots(c.prompt_length, c.max_new, c.group, c.tiles)


def abstract_batch(c: Config, policy: policies.Policy) -> Batch:
  """The shapes and dtypes of an update's batch, where the config says how long prompts are and how many tiles."""
  groups = c.prompts // c.updates
  an = lambda dtype, *shape: jax.ShapeDtypeStruct((groups, *shape), dtype)
  logp = an(jnp.float32, c.group, c.max_new)
  return Batch(
    inputs=policy.shapes(groups, slots(c)),
    mask=an(jnp.bool_, c.group, c.max_new),
    sampled=logp,
    old_logp=logp,
    fresh=an(jnp.bool_),
    advantages=logp if ADVANTAGES[c.advantage].per_token else an(jnp.float32, c.group, 1),
    ref_logp=logp if c.rule.kl.in_loss else None,
  )


def parts(config: Config, policy: policies.Policy) -> tuple[plan.Part, ...]:
  """What is counted: a prompt is read once for its responses, whose tokens see all of it and what they said so far."""
  return policy.parts(config.prompts // config.updates, slots(config))
