"""The phase that learns from reward: sync weights, roll out, reward, compare, update, evaluate, save; in stages."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core import mesh
from core import params as params_lib
from core.training.run import Run, loop
from core.training.steps import TrainState, init_state, merge
from rl.advantages import Advantage
from rl.learning.batch import Batch, Packed, pack, spans, split
from rl.learning.schedule import Progress, Schedule, Stage
from rl.learning.update import Pass, adapt, make_step
from rl.losses import Rule, kl
from rl.policy import ANY_SLOTS, Layout, Slots
from rl.rollout.collect import Collected
from rl.rollout.pipeline import Sequential


@dataclasses.dataclass(frozen=True)
class Updating:
  """How a rollout becomes updates.

  size: units of an update, groups or (in the 'rows' layout) trajectories. slots: sizes that are fixed, where not 0.
  ema: decay of averaged weights, 0 for none; show_average: they are what is evaluated. kinds: names of the kinds of
  trajectories, for metrics.
  """

  score: Pass
  rule: Rule
  advantage: Advantage
  tx: Any
  size: int
  layout: Layout = 'shared'
  slots: Slots = ANY_SLOTS
  accumulate: int = 1
  drop_cut: bool = False
  trainable: str = ''
  ema: float = 0.0
  show_average: bool = False
  kinds: tuple[str, ...] = ()


class Updater:
  """The compiled programs of one run, and what they need in addition to the training state."""

  def __init__(self, u: Updating, weights: Any, place: mesh.Mesh):
    self._u = u
    self._place = place
    trained, self.frozen = adapt(weights, u.trainable, u.score.dtype)
    self.first = init_state(trained, u.tx)
    places = jax.tree.map(lambda x: x.sharding, self.first)
    self._step = make_step(u.score, u.rule, u.tx, accumulate=u.accumulate, places=places, kinds=u.kinds)
    self._logp = jax.jit(functools.partial(_log_probs, score=u.score))
    self._refer = jax.jit(u.score.reference)
    self._averaged = jax.jit(functools.partial(_moving_average, decay=u.ema))
    # Copies: the first step donates the weights.
    self._reference = _copy(params_lib.cast(weights, u.score.dtype)) if u.rule.kl.coef else None
    self.average = _copy(trained) if u.ema else ()

  def whole(self, train: TrainState) -> Any:
    """All weights."""
    return merge(train.params, self.frozen)

  def merged(self, average: Any) -> Any:
    """All weights, those that are trained averaged."""
    return merge(average, self.frozen)

  def shown(self, train: TrainState, average: Any) -> Any:
    """The weights to evaluate: averaged ones, if they are kept and exported."""
    if self._u.show_average:
      return self.merged(average)
    return self.whole(train)

  def reset(self, train: TrainState) -> TrainState:
    """The same weights with a new optimiser."""
    return init_state(train.params, self._u.tx)

  def __call__(self, train: TrainState, average: Any, collected: Collected) -> tuple[TrainState, Any, dict]:
    """As many updates as the rollout fills; the metrics are those of the last one."""
    u = self._u
    own = collected.lag == 0 or u.rule.proximal  # ratios start from the present weights, not from older ones
    options = {'given': u.slots, 'drop_cut': u.drop_cut, 'kinds': bool(u.kinds)}
    packed = pack(u.score.policy, collected, u.layout, fresh=own, **options)
    updates = spans(packed.units * jax.process_count(), u.size, u.accumulate)
    parts = self._with_advantages(packed, updates)
    if own:  # only the first update starts from them
      parts[1:] = [self._moved(train, part) for part in parts[1:]]
    for part in parts:
      train, metrics = self._step(train, self.frozen, part, jax.random.key(0))
      if u.ema:
        average = self._averaged(average, train.params)
    return train, average, metrics | {'updates': np.int32(len(parts))}

  def _with_advantages(self, packed: Packed, updates: Sequence[range]) -> list[Batch]:
    """The batch of each update, with advantages and the log-probabilities of the reference policy."""
    divergence = self._u.rule.kl
    references = None
    penalty = None
    if self._reference is not None:
      bare = split(packed.batch, updates, self._place)
      references = [self._refer(self._reference, part.inputs) for part in bare]
    if divergence.in_reward:
      penalty = self._penalty(packed, references)
    gain = packed.advantages(self._u.advantage, penalty)
    parts = split(packed.batch.replace(advantages=gain), updates, self._place)
    if references is None or not divergence.in_loss:
      return parts
    return [part.replace(ref_logp=_sharded_as(ref, part)) for part, ref in zip(parts, references)]

  def _penalty(self, packed: Packed, references: Sequence[jax.Array]) -> np.ndarray:
    """Float32 […] of this process's units: the weighted divergence of what was sampled from the reference."""
    batch = packed.batch
    rule = self._u.rule.kl
    every = np.concatenate([mesh.to_local(ref) for ref in references])
    strided = every[jax.process_index() :: jax.process_count()]
    own = strided[: len(batch.fresh)]
    divergence = kl(jnp.asarray(batch.sampled), jnp.asarray(own), rule.estimator)
    return np.where(batch.mask, rule.coef * np.asarray(divergence), 0)

  def _moved(self, train: TrainState, part: Batch) -> Batch:
    """For an update from weights that no longer are those that sampled."""
    old = self._logp(self.whole(train), part.inputs)
    return part.replace(old_logp=_sharded_as(old, part), fresh=jnp.zeros_like(part.fresh))


def _log_probs(weights: Any, inputs: Any, *, score: Pass) -> jax.Array:
  logp, _ = score(weights, inputs)
  return logp


def _moving_average(old: Any, new: Any, *, decay: float) -> Any:
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)


def _copy(tree: Any) -> Any:
  return jax.tree.map(jnp.copy, tree)


def _sharded_as(x: jax.Array, part: Batch) -> jax.Array:
  """Sharded as what was sampled: one compiled step takes all updates."""
  return jax.device_put(x, part.sampled.sharding)


def reinforce(
  updater: Updater,
  schedule: Schedule,
  source: Sequential,
  progress: Progress,
  run: Run,
  place: mesh.Mesh,
  *,
  hard: Callable[[Stage], list[int]],
  look: Callable[[], dict],
  eval_every: int,
  tokens: int = 0,
) -> tuple[Any, Any]:
  """(the last weights, averaged ones or None) after all stages, or earlier when dynamic sampling finds nothing.

  hard(stage): numbers of the queries not solved in every try. look(): held-out metrics. Both by the sampler's weights.
  tokens: ends after the rollout that samples the last of as many; 0: after all stages.
  """
  finished = lambda: progress.solved or 0 < tokens <= progress.sampled

  def advance(state: dict, step: int) -> tuple[dict, dict]:
    train = state['train']
    average = state.get('average', ())
    if schedule.begins(step):
      train = _begin(schedule, step, updater, train, source, progress, hard)
    more = step + 1 < schedule.steps
    collected, behind = source.collect(updater.whole(train), state['behind'], step, progress.next, more)
    progress.take(collected)
    train, average, metrics = _update(updater, train, average, collected)
    metrics |= {'staleness': np.int32(min(step, source.lag)), 'stage': np.int32(schedule.number(step) + 1)}
    if (step + 1) % eval_every == 0:
      metrics |= source.look(updater.shown(train, average), look)
    return _state(train, behind, average), metrics

  first = _state(updater.first, source.start(updater.whole(updater.first)), updater.average)
  with contextlib.closing(source), jax.set_mesh(place), run:
    state = loop(run, first, advance, schedule.steps, host={'progress': progress}, finished=finished)
    if progress.solved:
      logging.warning('dynamic sampling found no mixed group: the task is solved, or too hard; training ends here')
    averaged = None
    if 'average' in state:
      averaged = updater.merged(state['average'])
    return updater.whole(state['train']), averaged


def _state(train: TrainState, behind: Any, average: Any) -> dict:
  """What a checkpoint holds: averaged weights only if they are kept."""
  state = {'train': train, 'behind': behind}
  if jax.tree.leaves(average):
    return state | {'average': average}
  return state


def _update(updater: Updater, train: TrainState, average: Any, collected: Collected) -> tuple[TrainState, Any, dict]:
  """The state after a rollout, unchanged if no process has a group, and the metrics of both."""
  if not collected.total:
    return train, average, collected.metrics | {'skipped': np.int32(1)}
  train, average, made = updater(train, average, collected)
  return train, average, collected.metrics | made


def _begin(
  schedule: Schedule,
  step: int,
  updater: Updater,
  train: TrainState,
  source: Sequential,
  progress: Progress,
  hard: Callable[[Stage], list[int]],
) -> TrainState:
  """The training state that a stage starts from; `progress` is told which queries it draws from."""
  stage = schedule.stage(step)
  if stage.tries is not None:
    progress.only = source.look(updater.whole(train), lambda: hard(stage))
  elif schedule.number(step):
    progress.only = None
  if stage.reset:
    return updater.reset(train)
  return train
