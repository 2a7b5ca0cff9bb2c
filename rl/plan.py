"""The policy update for `python -m core.plan --program=rl.train`."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from core import params, plan
from core.padding import bucket
from core.plan.training import place, training
from rl import policy as policies
from rl.advantages import ADVANTAGES
from rl.configs import Config
from rl.learning import update
from rl.learning.batch import Batch
from rl.policy import Slots, trees
from rl.rollout.tree import Growth, Segment


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The update that `rl.train` makes on `mesh`, with all responses of `config.max_new` tokens, and what to count of it.

  The planned mesh is the one that updates; the engine samples elsewhere or at another time. Raises plan.PlanError when
  `config.model` is not the name of a size, or the config leaves the lengths of prompts to the data.
  """
  policy = policies.planned(config.model)
  sees = not isinstance(policy, policies.TextPolicy)
  if not config.prompt_length or (sees and not config.tiles):
    wanted = '1 or more of both' if sees else 'the length of prompts'
    raise plan.PlanError(f'prompt_length={config.prompt_length}, tiles={config.tiles}: a plan needs {wanted}')
  spec = policy.spec()
  adapted = jax.eval_shape(lambda w: update.adapt(w, config.trainable, config.dtype), params.abstract(spec))
  weights = place(adapted, spec, mesh)
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


def slots(c: Config) -> Slots:
  """The sizes of a full update."""
  sizes = Slots(c.prompt_length, c.max_new, c.group, c.tiles)
  if c.tree.segment:
    return tree_slots(c, sizes)
  return sizes


def tree_slots(c: Config, sizes: Slots) -> Slots:
  """The sizes of trees in which no path ends early and most begin at the prompt: no rollout has more tokens."""
  widest = dataclasses.replace(c.tree, first_low=c.tree.first_high)
  grown = Growth(widest, width=c.group, longest=c.max_new, random=np.random.default_rng(0))
  said = itertools.count()
  while grown.active:
    lengths = [grown.limit(path) for path in grown.active]
    grown.advance([full_segment(n, said) for n in lengths])
  tree = trees.lay(np.full(c.prompt_length, -1), [leaf.path.tokens for leaf in grown.leaves])
  row, blocks = trees.sizes([tree])
  return sizes._replace(row=bucket(row), blocks=bucket(blocks, 1))


def full_segment(length: int, said: Iterator[int]) -> Segment:
  """A segment of tokens that no other has."""
  tokens = np.array(list(itertools.islice(said, length)), np.int32)
  return Segment(tokens, np.zeros(length, np.float32), text='', ended=False)


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
