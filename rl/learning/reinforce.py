"""The phase that learns from reward: sync weights, roll out, reward, compare, update, look, save; in stages."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core import mesh
from core import params as weights_lib
from core.training.run import Run, loop
from core.training.steps import TrainState, init_state, merge
from rl.advantages import ADVANTAGES
from rl.learning.batch import Batch, Packed, pack, spans, split
from rl.learning.update import Pass, adapt, make_step
from rl.losses import Rule, kl
from rl.policy import ANY_SLOTS, Layout, Slots
from rl.rollout.collect import Collected
from rl.rollout.groups import Plan
from rl.rollout.sources import InTurn


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of the run with its own plan.

  tries, tried: with a plan of tries, that many queries are tried as the stage begins, and those that are not right in
  every try are drawn from. reset: the optimiser begins anew.
  """

  steps: int
  plan: Plan
  tries: Plan | None = None
  tried: int = 0
  reset: bool = False


@dataclasses.dataclass(frozen=True)
class Updating:
  """How a rollout becomes updates.

  size: units of an update, groups or (in the 'rows' layout) trajectories. slots: sizes that are fixed, where not 0.
  ema: decay of averaged weights, 0 for none; show_average: they are what is evaluated.
  """

  score: Pass
  rule: Rule
  advantage: str
  tx: Any
  size: int
  layout: Layout = 'shared'
  slots: Slots = ANY_SLOTS
  accumulate: int = 1
  drop_cut: bool = False
  trainable: str = ''
  ema: float = 0.0
  show_average: bool = False


class Progress:
  """Host state of the loop: the next query, the queries that the stage draws from, whether nothing is left to learn."""

  def __init__(self, only: Sequence[int] | None = None):
    self.next, self.only, self.solved = 0, only, False

  def get_state(self) -> list:
    """For a checkpoint."""
    return [self.next, None if self.only is None else list(self.only), self.solved]

  def set_state(self, state: list) -> None:
    """From a checkpoint."""
    self.next, self.only, self.solved = state


class Updater:
  """The compiled programs of one run, and what they need besides the training state."""

  def __init__(self, u: Updating, weights: Any, place: mesh.Mesh):
    self._u, self._place = u, place
    trained, self.frozen = adapt(weights, u.trainable, u.score.dtype)
    self.first = init_state(trained, u.tx)
    places = jax.tree.map(lambda x: x.sharding, self.first)
    self._step = make_step(u.score, u.rule, u.tx, accumulate=u.accumulate, places=places)
    self._logp = jax.jit(lambda w, inputs: u.score(w, inputs)[0])
    self._average = jax.jit(lambda old, new: jax.tree.map(lambda a, b: u.ema * a + (1 - u.ema) * b, old, new))
    # Copies: the first step donates the weights.
    self._reference = _copy(weights_lib.cast(weights, u.score.dtype)) if u.rule.kl.coef else None
    self.average = _copy(trained) if u.ema else ()

  def whole(self, train: TrainState) -> Any:
    """All weights."""
    return merge(train.params, self.frozen)

  def merged(self, average: Any) -> Any:
    """All weights, those that are trained averaged."""
    return merge(average, self.frozen)

  def shown(self, train: TrainState, average: Any) -> Any:
    """The weights to evaluate: averaged ones, if they are kept and exported."""
    return self.merged(average) if self._u.show_average else self.whole(train)

  def reset(self, train: TrainState) -> TrainState:
    """The same weights with a new optimiser."""
    return init_state(train.params, self._u.tx)

  def __call__(self, train: TrainState, average: Any, collected: Collected) -> tuple[TrainState, Any, dict]:
    """As many updates as the rollout fills; the metrics are those of the last one."""
    u = self._u
    own = collected.lag == 0 or u.rule.proximal  # ratios start from the present weights, not from older ones
    packed = pack(u.score.policy, collected, u.layout, fresh=own, given=u.slots, drop_cut=u.drop_cut)
    updates = spans(packed.units * jax.process_count(), u.size, u.accumulate)
    parts = self._with_advantages(packed, updates)
    if own:  # only the first update starts from them
      parts[1:] = [self._moved(train, part) for part in parts[1:]]
    for part in parts:
      train, metrics = self._step(train, self.frozen, part, jax.random.key(0))
      average = self._average(average, train.params) if u.ema else average
    return train, average, metrics | {'updates': np.int32(len(parts))}

  def _with_advantages(self, packed: Packed, updates: Sequence[range]) -> list[Batch]:
    u, advantage = self._u, ADVANTAGES[self._u.advantage]
    references = None
    if self._reference is not None:
      bare = split(packed.batch, updates, self._place)
      references = [self._logp(self._reference, part.inputs) for part in bare]
    penalty = self._penalty(packed, references) if u.rule.kl.in_reward else None
    batch = packed.batch.replace(advantages=packed.advantages(advantage, penalty))
    parts = split(batch, updates, self._place)
    if references is None or not u.rule.kl.in_loss:
      return parts
    return [part.replace(ref_logp=_beside(ref, part)) for part, ref in zip(parts, references)]

  def _penalty(self, packed: Packed, references: Sequence[jax.Array]) -> np.ndarray:
    """Float32 […] of this process's units: the weighted divergence of what was sampled from the reference."""
    every = np.concatenate([mesh.to_local(ref) for ref in references])
    own = every[jax.process_index() :: jax.process_count()][: len(packed.batch.fresh)]
    divergence = kl(jnp.asarray(packed.batch.sampled), jnp.asarray(own), self._u.rule.kl.estimator)
    return np.where(packed.batch.mask, self._u.rule.kl.coef * np.asarray(divergence), 0)

  def _moved(self, train: TrainState, part: Batch) -> Batch:
    """For an update from weights that no longer are those that sampled."""
    old = self._logp(self.whole(train), part.inputs)
    return part.replace(old_logp=_beside(old, part), fresh=jnp.zeros_like(part.fresh))


def _copy(tree: Any) -> Any:
  return jax.tree.map(jnp.copy, tree)


def _beside(x: jax.Array, part: Batch) -> jax.Array:
  """Sharded as what was sampled: one compiled step takes all updates."""
  return jax.device_put(x, part.sampled.sharding)


def reinforce(
  updater: Updater,
  stages: Sequence[Stage],
  source: InTurn,
  progress: Progress,
  run: Run,
  place: mesh.Mesh,
  *,
  hard: Callable[[Stage], list[int]],
  look: Callable[[], dict],
  eval_every: int,
) -> tuple[Any, Any]:
  """(the last weights, averaged ones or None) after all stages, or earlier when dynamic sampling finds nothing.

  hard(stage): numbers of the queries not solved in every try. look(): held-out metrics. Both by the sampler's weights.
  """
  starts = np.cumsum([0, *(stage.steps for stage in stages)])
  steps = int(starts[-1])
  averaged = bool(jax.tree.leaves(updater.average))
  state = {'train': updater.first, 'behind': source.start(updater.whole(updater.first))}
  state |= {'average': updater.average} if averaged else {}

  def advance(state, i):
    train, average = state['train'], state.get('average', ())
    number = int(np.searchsorted(starts, i, 'right')) - 1
    if i == starts[number]:
      train = _begin(stages[number], number, updater, train, source, progress, hard)
    collected, behind = source.collect(updater.whole(train), state['behind'], i, progress.next, i + 1 < steps)
    progress.next, progress.solved = collected.next, collected.exhausted
    metrics = collected.metrics | {'staleness': np.int32(min(i, source.lag)), 'stage': np.int32(number + 1)}
    if collected.total:
      train, average, made = updater(train, average, collected)
      metrics |= made
    else:
      metrics |= {'skipped': np.int32(1)}
    if (i + 1) % eval_every == 0:
      metrics |= source.look(updater.shown(train, average), look)
    return {'train': train, 'behind': behind} | ({'average': average} if averaged else {}), metrics

  with contextlib.closing(source), jax.set_mesh(place), run:
    finished = lambda: progress.solved
    state = loop(run, state, advance, steps, host={'progress': progress}, finished=finished)
    if progress.solved:
      logging.warning('dynamic sampling found no mixed group: the task is solved, or too hard; training ends here')
    return updater.whole(state['train']), updater.merged(state['average']) if averaged else None


def _begin(stage: Stage, number: int, updater: Updater, train: TrainState, source: InTurn, progress: Progress, hard):
  """The training state that a stage starts from; `progress` is told which queries it draws from."""
  if stage.tries is not None:
    progress.only = source.look(updater.whole(train), lambda: hard(stage))
  elif number:
    progress.only = None
  return updater.reset(train) if stage.reset else train
