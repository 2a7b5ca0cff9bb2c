"""The supervised phase: cross entropy of the tokens of demonstrations, for any policy."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from core import mesh
from core.training.optim import optimizer
from core.training.run import Run, loop
from core.training.steps import Loss, init_state, make_step
from rl import losses
from rl.configs import Supervision
from rl.learning.batch import slots_of
from rl.learning.update import Pass
from rl.policy import ANY_SLOTS, Layout, Policy, Slots, Trajectory, layouts
from rl.rollout.collect import QuerySource
from rl.tasks import WARMUP_SEED


@dataclasses.dataclass(frozen=True)
class Demonstrations:
  """What the supervised phase learns from.

  examples(numbers): a trajectory for each number of an endless stream; its mask says what is learned. slots: sizes that
  are fixed, where not 0. folder: of the phase, in the workdir.
  """

  examples: Callable[[Sequence[int]], list[Trajectory]]
  layout: Layout = 'shared'
  slots: Slots = ANY_SLOTS
  folder: str = 'warmup'
  save_every: int = 25


def supervise(
  score: Pass,
  weights: Any,
  demonstrations: Demonstrations,
  phase: Supervision,
  workdir: pathlib.Path,
  place: mesh.Mesh,
  config: Any,
) -> Any:
  """Trains on demonstrations, on the mesh `place`; returns the weights. config: what the run's folder is claimed by."""
  if not phase.steps:
    return weights

  def loss(weights, batch, key) -> Loss:
    inputs, mask = batch
    logp, _ = score(weights, inputs)
    return Loss(*losses.aggregate(-logp, mask, 'token'))

  tx = optimizer(phase.optim, phase.steps, score.policy.spec())
  state = init_state(weights, tx)
  step = make_step(loss, tx, places=jax.tree.map(lambda x: x.sharding, state))

  def advance(state, i):
    numbers = mesh.process_local(range(i * phase.batch, (i + 1) * phase.batch))
    batch = packed(score.policy, demonstrations, numbers)
    return step(state, None, mesh.to_global(batch, place), jax.random.key(0))

  with jax.set_mesh(place), Run(workdir / demonstrations.folder, config, every=demonstrations.save_every) as run:
    return loop(run, state, advance, phase.steps).params


def packed(policy: Policy, demonstrations: Demonstrations, numbers: Sequence[int]) -> tuple[Any, np.ndarray]:
  """(inputs, mask) of these demonstrations, host arrays of this process's rows."""
  groups = [[t] for t in demonstrations.examples(numbers)]
  layout = demonstrations.layout
  slots = slots_of(policy, groups, layout, demonstrations.slots)
  inputs = policy.inputs(groups, layout, slots)
  longest = slots.response if layout != 'rows' else max(len(t.tokens) for (t,) in groups)
  mask = layouts.spread(groups, lambda t: t.mask, samples=1, length=longest, dtype=bool)
  return inputs, layouts.place(mask, groups, layout, slots)


def solutions(source: QuerySource, max_new: int) -> Callable[[Sequence[int]], list[Trajectory]]:
  """Demonstrations out of a run's queries: their prompts with their solutions, cut at `max_new` tokens.

  A prompt that is too long teaches nothing: it is replaced by another one without a loss. Raises ValueError when none
  fits.
  """

  def examples(numbers: Sequence[int]) -> list[Trajectory]:
    found = []
    for number in numbers:
      query = source.query(number, WARMUP_SEED)
      tokens = source.policy.response(query.solution)[:max_new]
      found.append(Trajectory.given(source.prompt(query), tokens))
    fits = [len(t.prompt.tokens) <= source.limit for t in found]
    if not any(fits):
      raise ValueError(f'none of {len(found)} prompts has at most {source.limit} tokens')
    short = found[fits.index(True)]
    blank = dataclasses.replace(short, mask=np.zeros_like(short.mask))
    return [t if fit else blank for t, fit in zip(found, fits)]

  return examples
