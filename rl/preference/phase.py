"""Mixed preference optimisation of a policy (arXiv 2411.10442), as InternVL3.5's offline stage does it.

A batch holds pairs of one bucket (`rl.preference.buckets`), so that a few programs serve pairs of all lengths; buckets
take turns in proportion to their pairs.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np
from absl import logging

from core import mesh
from core.training import data
from core.training.concatenated import Concatenated
from core.training.optim import optimizer
from core.training.run import Run, loop
from core.training.steps import Loss, init_state, make_step
from rl import losses
from rl.learning.update import Pass
from rl.losses import RewardShift
from rl.policy import Policy
from rl.preference import buckets as buckets_lib
from rl.preference.batches import Batch, BucketRows, batch
from rl.preference.buckets import Bucket
from rl.preference.examples import Examples
from rl.preference.reference import referenced
from rl.preference.settings import MpoPhase

SHOWN = ('preference', 'preferred', 'shift')  # metrics on the console


def mpo(
  phase: MpoPhase,
  policy: Policy,
  weights: Any,
  parts: Mapping[str, tuple[Examples, float]],
  workdir: pathlib.Path,
  *,
  place: mesh.Mesh | None = None,
  dtype: str = 'float32',
  remat: str = 'none',
) -> Any:
  """Trains all weights on pairs, with the first ones as frozen reference; continues a stopped run.

  parts: pairs by name, and how often an epoch goes through them. weights, float32 and used in `dtype`, are sharded over
  the mesh `place` (all devices by default) and donated by the first step. The reference's log-probabilities are
  computed once and kept in the workdir, so that only one copy of the model is in memory. Raises ValueError when no pair
  fits.
  """
  if place is None:
    place = mesh.make()
  weights = jax.device_put(weights, mesh.shardings(policy.spec(), place))
  score = Pass(policy, dtype=dtype, remat=remat)
  source = Concatenated([examples for examples, _ in parts.values()])
  repeats = {name: repeat for name, (_, repeat) in parts.items()}
  with jax.set_mesh(place), Run(workdir, phase, every=phase.save_every, show=SHOWN) as run:
    forward = Pass(policy, dtype=dtype)  # nothing is recomputed where there is no backward pass
    found = referenced(phase, forward, weights, source, place, run.workdir / 'reference.npz')
    _log_fit(phase, found[0], len(source))
    stream = batches(phase, policy, source, repeats, *found)
    return _train(phase, score, weights, stream, run, place)


def _train(
  phase: MpoPhase, score: Pass, weights: Any, stream: grain.DatasetIterator, run: Run, place: mesh.Mesh
) -> Any:
  """The weights after all steps."""

  def loss(weights: Any, pairs: Batch, key: Any, shift: RewardShift) -> Loss:
    logp, _ = score(weights, pairs.inputs)
    return losses.mpo(logp, pairs.mask, pairs.reference, shift, config=phase.loss, token_weight=pairs.token_weight)

  tx = optimizer(phase.optim, phase.steps, score.policy.spec())
  state = init_state(weights, tx, RewardShift.new())
  places = jax.tree.map(lambda x: x.sharding, state)
  step = make_step(loss, tx, accumulate=phase.accumulate, places=places)
  prepare = jax.jit(batch)

  def advance(state, i):
    rows = mesh.to_global(next(stream), place)
    return step(state, None, prepare(rows), jax.random.key(phase.seed))

  return loop(run, state, advance, phase.steps, host={'pairs': stream}).params


def batches(
  phase: MpoPhase,
  policy: Policy,
  source: Concatenated,
  repeats: Mapping[str, float],
  buckets: list[Bucket],
  sums: np.ndarray,
) -> grain.DatasetIterator:
  """An endless iterator of this process's rows of each batch, all of one bucket.

  repeats: how often an epoch goes through the pairs of each of the source's files. sums: as in `BucketRows`.
  """
  size = phase.batch // jax.process_count()
  streams = []
  weights = []
  for bucket in buckets:
    shares = _shares(policy, source, repeats, bucket, sums)
    streams.append(data.mix(shares, seed=phase.seed).batch(size))
    weights.append(sum(weight for _, weight in shares.values()))
  mixed = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
  return iter(mixed.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))


def _shares(
  policy: Policy, source: Concatenated, repeats: Mapping[str, float], bucket: Bucket, sums: np.ndarray
) -> dict[str, tuple[BucketRows, float]]:
  """The rows of each file in a bucket, with their weight in the mixture."""
  origin = source.source_of(bucket.numbers)
  shares = {}
  for k, (name, repeat) in enumerate(repeats.items()):
    numbers = bucket.numbers[origin == k]
    if len(numbers):
      rows = BucketRows(policy, source, Bucket(bucket.slots, numbers), sums)
      shares[name] = rows, repeat * len(numbers)
  return shares


def _log_fit(phase: MpoPhase, buckets: list[Bucket], pairs: int) -> None:
  fit = sum(len(bucket.numbers) for bucket in buckets)
  level = logging.INFO if fit == pairs else logging.WARNING
  logging.log(level, '%d of %d pairs fit %s', fit, pairs, phase.limits)
  logging.info('%s', buckets_lib.summary(buckets))
