"""Rollouts: queries answered by the policy, rewarded, and compared within their groups.

B prompts   G answers to each   N answer slots
"""

import dataclasses
import operator
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from core import mesh
from rl import dynamic, policy
from rl.advantages import ADVANTAGES, Scores
from rl.rewards import Guard
from rl.sampler import Sampler
from rl.setup import ROLLOUT_SEED, Setup
from rl.update import Rollouts


@dataclasses.dataclass(frozen=True)
class Collector:
  """Makes rollouts. only: numbers of the queries to draw from, over and over; None draws from the endless stream."""

  setup: Setup
  guard: Guard
  only: Sequence[int] | None = None

  def __call__(self, sampler: Sampler, start: int) -> tuple[Rollouts, dict, int]:
    """(rollouts of the queries from number `start` on, metrics, the next start), a function of weights and `start`.

    Of several engines each makes its share, from queries of its own; of the processes that share one each returns its
    part, as `mesh.interleave` takes it. With `config.dynamic`, as many rounds as it takes to find groups that are
    neither all right nor all wrong.
    """
    c, cursor = self.setup.config, dynamic.Cursor(start)
    share = c.prompts // sampler.home.count
    sample = lambda numbers: self._sample(sampler, numbers)
    if c.dynamic:
      batch, drawn = dynamic.fill(
        cursor, sample, lambda b: dynamic.mixed(b['right'], b['valid']), groups=share, at_once=share
      )
    else:
      batch, drawn = sample(cursor.take(share)), None
    metrics = _together(self._metrics(batch) | (drawn.metrics() if drawn else {}))
    among = mesh.processes(sampler.home.mesh)
    part = slice(among.index(jax.process_index()), None, len(among))
    return self._rollouts(jax.tree.map(operator.itemgetter(part), batch)), metrics, cursor.at

  def _sample(self, sampler: Sampler, numbers: Sequence[int]) -> dict:
    s, c = self.setup, self.setup.config
    # Queries are dealt out to the processes, so that an update is of the same ones whatever their number.
    home, among = sampler.home, len(mesh.processes(sampler.home.mesh))
    numbers = [(n // among * home.count + home.index) * among + n % among for n in numbers]
    at = [self.only[n % len(self.only)] for n in numbers] if self.only is not None else numbers
    queries = s.queries('train', ROLLOUT_SEED, at)
    inputs = s.inputs(queries)
    answers = sampler(
      inputs,
      max_new=c.max_new,
      samples=c.group,
      temperature=c.temperature,
      seeds=[(n + c.seed * 2**20) * c.group for n in numbers],
    )
    # A reward may take its time or fail: each is found by one process, and all that share an engine go by it.
    mine = mesh.process_local(range(len(queries)), home.mesh)
    said = policy.texts(s.processor, jax.tree.map(lambda x: x[mine.start : mine.stop], answers))
    asked = [(text, queries[mine[i // c.group]].answer) for i, text in enumerate(said)]
    rewards = self.guard(asked)
    right = np.array([s.task.right(*pair) for pair in asked], np.float32)
    lost = np.isin(np.arange(len(asked)), list(rewards.lost))
    scores = {'right': right, 'lost': lost, 'rewards': rewards.values, 'valid': rewards.valid}
    scores = mesh.gather({k: v.reshape(-1, c.group) for k, v in scores.items()}, home.mesh)
    return {'prompts': s.collate(inputs), 'answers': answers} | scores

  def _rollouts(self, batch: dict) -> Rollouts:
    advantage, mask = ADVANTAGES[self.setup.config.advantage], batch['answers'].mask & batch['valid'][..., None]
    compared = {'rewards': batch['rewards'][..., None], 'valid': batch['valid'], 'mask': mask}
    if advantage.whole_batch:
      compared = mesh.gather(compared)
    gain = np.asarray(advantage(Scores(**compared, weights=np.ones(1, np.float32))))
    if advantage.whole_batch:
      gain = mesh.process_local(gain)
    answers = batch['answers'].replace(mask=mask)
    return Rollouts(batch['prompts'], answers, gain, answers.logp, np.ones(len(mask), bool))

  def _metrics(self, batch: dict) -> dict:
    answers, valid = batch['answers'], batch['valid']
    lengths = answers.mask.sum(-1)
    ended = np.take_along_axis(answers.tokens, lengths[..., None] - 1, -1)[..., 0] == self.setup.processor.stop_id
    mean = lambda x: np.float32(x[valid].mean()) if valid.any() else np.float32(0)
    flat = ~dynamic.mixed(batch['rewards'], valid)
    return {
      'reward': mean(batch['rewards']),
      'right': mean(batch['right']),
      'reward_flat_groups': flat.mean(),
      'reward_lost': batch['lost'].mean(dtype=np.float32),
      'tokens': lengths.sum(),
      'answer_length': lengths.mean(),
      'answer_cut': np.float32(1 - ended.mean()),
    }


def _together(metrics: dict) -> dict:
  """The means over all processes; of tokens their sum."""
  if jax.process_count() == 1:
    return metrics
  values = multihost_utils.process_allgather(np.array(list(metrics.values()), np.float32))
  means = dict(zip(metrics, values.mean(0)))
  return means | {'tokens': means['tokens'] * jax.process_count()}
