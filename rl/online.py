"""The online phase: rollouts and policy updates in turn, or beside each other on two halves of the devices."""

import concurrent.futures
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import internvl
from core import mesh
from core.run import Run, loop
from core.train import Loss, init_state, make_step, optimizer
from rl import losses, policy
from rl.dynamic import Cursor
from rl.rollouts import Collector, Rollouts
from rl.sampler import Sampler
from rl.setup import Setup

GLANCE = 256  # held-out questions of a look during training


def make_update(s: Setup):
  """(optimiser, jitted step on `Rollouts`)."""
  c = s.config

  def loss(weights, batch: Rollouts, key) -> Loss:
    logp, entropy = policy.log_probs(weights, s.model, batch.prompts, batch.answers, temperature=c.temperature)
    mask = batch.answers.mask
    out = losses.policy_loss(logp, batch.old_logp, batch.advantages, mask, rule=c.rule,
                             rollout_logp=batch.answers.logp if c.rule.importance_cap else None)
    gap = jnp.abs(jax.lax.stop_gradient(logp) - batch.answers.logp)
    notes = {name: losses.aggregate(v, mask, 'token') for name, v in (('entropy', entropy), ('sampler_gap', gap))}
    return out.replace(metrics=out.metrics | notes)

  tx = optimizer(c.optim, c.steps * c.updates, internvl.spec(s.model))
  return tx, make_step(loss, tx, accumulate=c.accumulate)


class InTurn:
  """Each rollout is sampled by the weights it updates."""

  def __init__(self, collector: Collector, sampler: Sampler):
    self._collector, self._sampler = collector, sampler

  def start(self, weights):
    """What the state keeps of older weights: nothing."""
    return None

  def collect(self, state, cursor: Cursor):
    """(rollouts, metrics, what the state is to keep)."""
    self._sampler.update(state['train'].params)
    batch, metrics, cursor.at = self._collector(self._sampler, cursor.at)
    return batch, metrics, None

  def close(self):
    """Nothing to end."""


class Ahead:
  """The next rollout is sampled on half of the devices while the other half updates: by weights one rollout older.

  The state keeps those weights, so that a run that was stopped samples the same rollout again. The old
  log-probabilities are the engine's, as sampled.
  """

  def __init__(self, collector: Collector, sampler: Sampler, devices):
    self._collector, self._sampler = collector, sampler
    self._there = jax.NamedSharding(jax.sharding.Mesh(np.array(devices), ('data',)), jax.P())
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._next = None

  def start(self, weights):
    """The weights of the first rollout, where the engine lives."""
    return jax.device_put(weights, self._there)

  def collect(self, state, cursor: Cursor):
    """(rollouts, metrics, what the state is to keep); the next rollout is then on its way."""
    pending = self._next or self._launch(state['behind'], cursor.at)
    batch, metrics, cursor.at = pending.result()
    behind = jax.block_until_ready(jax.device_put(state['train'].params, self._there))  # before they are donated
    self._next = self._launch(behind, cursor.at)
    return batch.replace(old_logp=batch.answers.logp), metrics, behind

  def close(self):
    """Waits for the rollout on its way."""
    self._thread.shutdown()

  def _launch(self, weights, start):
    def work():
      with jax.set_mesh(self._there.mesh):
        self._sampler.update(weights)
        return self._collector(self._sampler, start)
    return self._thread.submit(work)


def reinforce(s: Setup, weights, collector: Collector, sampler: Sampler, workdir: pathlib.Path) -> internvl.Params:
  """Rollouts and updates until `config.steps`; returns the weights."""
  c = s.config
  share = c.prompts // c.updates
  recompute = jax.jit(lambda w, b: policy.log_probs(w, s.model, b.prompts, b.answers, temperature=c.temperature)[0])
  tx, step = make_update(s)
  source = source_of(s, collector, sampler)
  cursor = Cursor()

  def advance(state, i):
    batch, metrics, behind = source.collect(state, cursor)
    train = state['train']
    if c.updates > 1 and batch.old_logp is None:
      batch = batch.replace(old_logp=recompute(train.params, batch))
    for start in range(0, c.prompts, share):
      part = jax.tree.map(operator.itemgetter(slice(start, start + share)), batch)
      train, update = step(train, None, part, jax.random.key(0))
    if (i + 1) % c.eval_every == 0:
      metrics['heldout_accuracy'] = np.float32(look(s, sampler, train.params))
    return {'train': train, 'behind': behind}, metrics | update | {'staleness': np.int32(c.ahead and i > 0)}

  state = {'train': init_state(weights, tx), 'behind': source.start(weights)}
  try:
    with Run(workdir, c, every=c.save_every, show=('reward', 'entropy')) as run:
      return loop(run, state, advance, c.steps, host={'queries': cursor})['train'].params
  finally:
    source.close()
