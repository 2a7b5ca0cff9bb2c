"""The policy update for `python -m core.plan --program=rl.train`."""

import functools

import jax

import internvl
from core import params, plan
from core.plan.training import training
from internvl.plan.training import place, size, towers, triangle
from rl import update
from rl.configs import Config


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The update that `rl.train` makes on `mesh`, with all answers of `config.max_new` tokens, and what to count of it.

  The planned mesh is the one that updates; the engine samples elsewhere or at another time. Raises plan.PlanError when
  `config.model` is not the name of a size, or the config leaves the lengths of prompts to the data.
  """
  m = size(config.model)
  if not config.prompt_length or not config.tiles:
    raise plan.PlanError(f'prompt_length={config.prompt_length}, tiles={config.tiles}: a plan needs 1 or more of both')
  weights = place(jax.eval_shape(lambda w: update.adapt(config, w), params.abstract(internvl.spec(m))), m, mesh)
  batch = update.abstract_rollouts(config, m)
  return training(
    functools.partial(update.make_step, config, m),
    update.optimizer(config, m),
    weights,
    batch,
    mesh,
    parts=parts(config, m),
    rows=batch.answers.mask.shape[0] * config.group,
    micro_batches=config.accumulate,
    remat=config.remat,
  )


def parts(config: Config, m: internvl.Config) -> tuple[plan.Part, ...]:
  """The towers: a prompt is read once for its answers, whose tokens see all of it and what they have said so far."""
  prompts, length, answer = config.prompts // config.updates, config.prompt_length, config.max_new
  said = prompts * config.group * answer

  def pairs(window):
    before = triangle(length, window)
    return prompts * (before + config.group * (triangle(length + answer, window) - before))

  return towers(m, tiles=prompts * config.tiles, tokens=prompts * length + said, scored=said, pairs=pairs)
