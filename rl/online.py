"""The online phase: rollouts and policy updates in turn, or beside each other on two halves of the devices."""

import concurrent.futures
import contextlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import internvl
from core import mesh, params
from core.training.run import Run, loop
from core.training.steps import init_state, merge
from rl import policy, update
from rl.dynamic import Cursor
from rl.evaluate import Result
from rl.rollouts import Collector
from rl.sampler import Sampler
from rl.setup import Setup

GLANCE = 256  # held-out questions of a look during training


class InTurn:
  """Each rollout is sampled by the very weights that it updates."""

  lag = 0

  def __init__(self, collector: Collector, sampler: Sampler):
    self._collector, self._sampler = collector, sampler

  def start(self, weights):
    """What the state keeps of older weights: nothing."""
    return ()

  def collect(self, weights, behind, cursor: Cursor, more: bool):
    """(rollouts, metrics, what the state is to keep); more: whether another rollout will be asked for."""
    self._sampler.update(weights)
    batch, metrics, cursor.at = self._collector(self._sampler, cursor.at)
    return batch, metrics, ()

  def look(self, weights) -> Result:
    """Greedy answers to some held-out questions."""
    self._sampler.update(weights)
    return self._collector.setup.evaluate(self._sampler, GLANCE)

  def close(self) -> None:
    """Leaves the sampler to others."""


class Ahead(InTurn):
  """The next rollout is sampled while this one updates, by weights one rollout older, on devices of its own.

  The state keeps those weights, so that a run that was stopped samples the same rollout again.
  """

  lag = 1

  def __init__(self, collector: Collector, sampler: Sampler):
    super().__init__(collector, sampler)
    self._thread = concurrent.futures.ThreadPoolExecutor(1)  # of the engine: rollouts and looks go one by one
    self._next = None

  def start(self, weights):
    """The weights of the first rollout, where the engine lives."""
    return self._sampler.here(weights)

  def collect(self, weights, behind, cursor: Cursor, more: bool):
    """As of `InTurn`; with `more` the next rollout is then on its way."""
    batch, metrics, cursor.at = (self._next or self._launch(behind, cursor.at)).result()
    behind = jax.block_until_ready(self._sampler.here(weights))  # before the update takes their place
    self._next = self._launch(behind, cursor.at) if more else None
    return batch.replace(fresh=np.zeros_like(batch.fresh)), metrics, behind

  def look(self, weights) -> Result:
    """As of `InTurn`, between two rollouts."""
    return self._thread.submit(super().look, weights).result()

  def close(self) -> None:
    """Waits for what is on its way."""
    self._thread.shutdown()

  def _launch(self, weights, start):
    def rollout():
      self._sampler.update(weights)
      return self._collector(self._sampler, start)

    return self._thread.submit(rollout)


def reinforce(s: Setup, weights, source: InTurn, workdir: pathlib.Path, place: jax.sharding.Mesh) -> internvl.Params:
  """Rollouts and updates on the mesh `place` until `config.steps`; returns the weights."""
  c = s.config
  size = c.prompts // c.updates
  trained, frozen = update.adapt(c, weights)
  whole = lambda train: merge(train.params, frozen)
  state = {'train': init_state(trained, update.optimizer(c, s.model)), 'behind': source.start(weights)}
  step = update.make_step(c, s.model, places=jax.tree.map(lambda x: x.sharding, state['train']))
  recompute = jax.jit(
    lambda w, b: policy.log_probs(params.cast(w, c.dtype), s.model, b.prompts, b.answers, temperature=c.temperature)[0]
  )
  cursor = Cursor()

  def advance(state, i):
    train = state['train']
    batch, metrics, behind = source.collect(whole(train), state['behind'], cursor, i + 1 < c.steps)
    parts = [mesh.interleave(batch, range(n * size, (n + 1) * size), place) for n in range(c.updates)]
    if source.lag == 0:  # only the first update starts from the weights that sampled
      # Laid out like what was sampled: one compiled step takes them all.
      parts[1:] = [
        part.replace(
          old_logp=jax.device_put(recompute(whole(train), part), part.old_logp.sharding),
          fresh=jnp.zeros_like(part.fresh),
        )
        for part in parts[1:]
      ]
    for part in parts:
      train, made = step(train, frozen, part, jax.random.key(0))
    if (i + 1) % c.eval_every == 0:
      metrics['heldout_accuracy'] = np.float32(source.look(whole(train)).accuracy)
    return {'train': train, 'behind': behind}, metrics | made | {'staleness': np.int32(min(i, source.lag))}

  run = Run(workdir, c, every=c.save_every, show=('reward', 'entropy'))
  with contextlib.closing(source), jax.set_mesh(place), run:
    return whole(loop(run, state, advance, c.steps, host={'queries': cursor})['train'])
