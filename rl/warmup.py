"""The supervised phase before reinforcement learning."""

import pathlib

import jax
import numpy as np

import internvl
from core import mesh, params
from core.training.optim import optimizer
from core.training.run import Run, loop
from core.training.steps import Loss, init_state, make_step
from rl import losses, policy
from rl.setup import WARMUP_SEED, Setup


def supervised_batch(s: Setup, i: int) -> tuple[policy.Prompts, policy.Answers]:
  """This process's rows of batch i: prompts with their right answers."""
  c = s.config
  numbers = range(i * c.warmup.batch, (i + 1) * c.warmup.batch)
  queries = s.queries('train', WARMUP_SEED, mesh.process_local(numbers))
  tokens = np.full((len(queries), c.max_new), s.processor.pad_id, np.int32)
  mask = np.zeros(tokens.shape, bool)
  for row, q in enumerate(queries):
    ids = [*s.processor.tokenizer.encode(q.solution, add_special_tokens=False), s.processor.stop_id][: c.max_new]
    tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
  one = lambda a: a[:, None]  # one answer a prompt
  answers = policy.Answers(one(tokens), one(np.zeros(tokens.shape, np.float32)), one(mask))
  return s.collate(s.inputs(queries)), answers


def warm_up(s: Setup, weights, workdir: pathlib.Path, place: jax.sharding.Mesh) -> internvl.Params:
  """Trains on questions and answers, on the mesh `place`; returns the weights."""
  c = s.config
  if not c.warmup.steps:
    return weights

  def loss(weights, batch, key) -> Loss:
    logp, _ = policy.log_probs(params.cast(weights, c.dtype), s.model, *batch, remat=c.remat)
    return Loss(*losses.aggregate(-logp, batch[1].mask, 'token'))

  tx = optimizer(c.warmup.optim, c.warmup.steps, internvl.spec(s.model))
  state = init_state(weights, tx)
  step = make_step(loss, tx, places=jax.tree.map(lambda x: x.sharding, state))

  def advance(state, i):
    return step(state, None, mesh.to_global(supervised_batch(s, i), place), jax.random.key(0))

  with jax.set_mesh(place), Run(workdir / 'warmup', c, every=c.save_every) as run:
    return loop(run, state, advance, c.warmup.steps).params
