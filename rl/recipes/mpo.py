"""Mixed preference optimisation of an InternVL policy (arXiv 2411.10442), as InternVL3.5's offline stage does it.

A batch holds pairs of one room (`rl.preference.rooms`), so that a few programs serve pairs of all lengths; rooms take
turns as often as there are pairs in them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import grain
import jax
import numpy as np
from absl import logging

import internvl
from core import mesh
from core import params as params_lib
from core.launch.fields import field
from core.training import data
from core.training.optim import Optim, optimizer
from core.training.run import Run, loop
from core.training.steps import Loss, init_state, make_step
from rl import losses, policy, preference
from rl.losses import Mpo, RewardShift
from rl.preference import Chain, Group, Placed, Sizes


@dataclasses.dataclass(frozen=True)
class MpoPhase:
  """The offline phase; defaults are those of the InternVL3.5 release, for one epoch of MMPR-v1.2 (200K pairs)."""

  steps: int = field(800, 'updates')
  batch: int = field(256, 'pairs an update')
  accumulate: int = field(1, 'micro-batches an update; each moves the reward shift')
  seed: int = field(0, 'of the order of pairs')
  sizes: Sizes = field(Sizes(), 'room of a pair, at most; longer ones are left out')
  rooms: int = field(12, 'different rooms, each a compiled program; more waste less on padding')
  thinking: bool = field(False, "prompts carry the layout's system text for reasoning")
  loss: Mpo = field(Mpo(), 'weights of the three terms')
  optim: Optim = field(Optim(lr=2e-7, schedule='cosine', warmup_steps=24, weight_decay=0.05), 'optimiser')
  reference_batch: int = field(32, 'pairs at once while the reference is computed')
  save_every: int = field(100, 'steps between checkpoints')

  def __post_init__(self):
    for name in ('steps', 'batch', 'accumulate', 'rooms', 'reference_batch', 'save_every'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if self.batch % self.accumulate:
      raise ValueError(f'accumulate={self.accumulate} does not divide batch={self.batch}')
    if self.optim.warmup_steps >= self.steps:
      raise ValueError(f'optim.warmup_steps={self.optim.warmup_steps}: expected fewer than steps={self.steps}')


def mpo(
  phase: MpoPhase,
  config: internvl.Config,
  params: internvl.Params,
  parts: Mapping[str, tuple[preference.Examples, float]],
  workdir: pathlib.Path,
  *,
  place: jax.sharding.Mesh | None = None,
  dtype: str = 'float32',
  remat: str = 'none',
) -> internvl.Params:
  """Trains all of `params` on pairs, with the start as frozen reference; goes on where it was stopped.

  parts: pairs by name, and how often an epoch goes through them. params, float32 and used in `dtype`, are spread over
  the mesh `place` (all devices by default) and given up to the first step. The reference's log-probabilities are
  computed once and kept in the workdir, so it is never held beside the policy. Raises ValueError when no pair fits.
  """
  place = mesh.make() if place is None else place
  params = jax.device_put(params, mesh.shardings(internvl.spec(config), place))
  tx = optimizer(phase.optim, phase.steps, internvl.spec(config))
  chain = Chain([examples for examples, _ in parts.values()])

  def loss(params, batch: preference.Batch, key, shift: RewardShift) -> Loss:
    logp, _ = policy.log_probs(params_lib.cast(params, dtype), config, batch.prompts, batch.answers, remat=remat)
    return losses.mpo(
      logp, batch.answers.mask, batch.reference, shift, config=phase.loss, token_weight=batch.token_weight
    )

  with (
    jax.set_mesh(place),
    Run(workdir, phase, every=phase.save_every, show=('preference', 'preferred', 'shift')) as run,
  ):

    def evaluate(rows: Placed):
      return preference.reference(params, config, rows, place, at_once=phase.reference_batch, dtype=dtype)

    groups, sums = _referenced(phase, chain, evaluate, run.workdir / 'reference.npz')
    stream = _batches(phase, chain, dict(zip(parts, (repeat for _, repeat in parts.values()))), groups, sums)
    prepare = jax.jit(preference.batch)
    state = init_state(params, tx, RewardShift.new())
    step = make_step(loss, tx, accumulate=phase.accumulate, places=jax.tree.map(lambda x: x.sharding, state))

    def advance(state, i):
      rows = mesh.to_global(next(stream), place)
      return step(state, None, prepare(rows), jax.random.key(phase.seed))

    return loop(run, state, advance, phase.steps, host={'pairs': stream}).params


def _batches(
  phase, chain: Chain, repeats: Mapping[str, float], groups: list[Group], sums: np.ndarray
) -> grain.DatasetIterator:
  """An endless iterator of this process's rows of each batch, all of one room."""
  size = phase.batch // jax.process_count()
  streams, weights = [], []
  for group in groups:
    which = chain.which(group.numbers)
    own = {
      name: (Placed(chain, group.room, group.numbers[which == k], sums), repeat * np.sum(which == k))
      for k, (name, repeat) in enumerate(repeats.items())
      if (which == k).any()
    }
    streams.append(data.mix(own, seed=phase.seed).batch(size))
    weights.append(sum(weight for _, weight in own.values()))
  mixed = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
  return iter(mixed.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))


def _referenced(phase, chain: Chain, evaluate, path: pathlib.Path) -> tuple[list[Group], np.ndarray]:
  """(groups of one room, float32 [pairs, 2] of the reference), from `path`, which every process must see, if there."""
  divide = lambda needs: preference.divide(needs, phase.sizes, most=phase.rooms, least=phase.batch)
  if not path.exists():
    needs = preference.measure(chain)
    sums = np.zeros((len(chain), 2), np.float32)
    for group in divide(needs):
      sums[group.numbers] = evaluate(Placed(chain, group.room, group.numbers))
    if jax.process_index() == 0:
      draft = path.with_suffix('.part.npz')
      np.savez(draft, needs=needs, sums=sums, pairs=chain.ends)
      draft.replace(path)
  mesh.barrier('reference')
  saved = np.load(path)
  if saved['pairs'].tolist() != chain.ends.tolist():
    raise ValueError(
      f'{path} is of {saved["pairs"][-1]} pairs in {len(saved["pairs"])} files: there are '
      f'{len(chain)} in {len(chain.ends)} now'
    )
  groups = divide(saved['needs'])
  fit = sum(len(group.numbers) for group in groups)
  logging.log(
    logging.INFO if fit == len(chain) else logging.WARNING, '%d of %d pairs fit %s', fit, len(chain), phase.sizes
  )
  slots = sum(len(group.numbers) * group.room.slots for group in groups)
  logging.info(
    '%d rooms, %.0f token slots a pair: %s',
    len(groups),
    slots / fit,
    ', '.join(f'{len(g.numbers)} in {g.room.prompt}+2x{g.room.answer}' for g in groups),
  )
  return groups, saved['sums']
