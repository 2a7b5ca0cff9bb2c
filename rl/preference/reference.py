"""What the frozen reference policy makes of preference pairs: computed once, before training, and kept in a file."""

import functools
import pathlib
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from core import mesh, padding
from core.training.concatenated import Concatenated
from rl.learning.update import Pass
from rl.preference.batches import BucketRows
from rl.preference.buckets import Bucket, divide
from rl.preference.examples import THREADS, measure
from rl.preference.settings import MpoPhase


@functools.partial(jax.jit, static_argnames='score')
def _sums(weights: Any, rows: dict[str, Any], score: Pass) -> jax.Array:
  logp, _ = score(weights, rows['inputs'])
  return jnp.where(rows['mask'], logp, 0).sum(-1)


def reference_sums(score: Pass, weights: Any, rows: BucketRows, place: mesh.Mesh, *, at_once: int) -> np.ndarray:
  """float32 [K, 2]: summed log-probabilities of the responses, `at_once` pairs at a time on the mesh `place`."""
  ahead = max(THREADS, 2 * at_once)
  reading = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
  stream = grain.MapDataset.source(rows).to_iter_dataset(reading)
  fill = functools.partial(padding.repeat_last, length=at_once)
  sums = []
  for stacked in stream.batch(at_once):
    n = len(stacked['mask'])
    filled = jax.tree.map(fill, stacked)
    own = jax.tree.map(mesh.process_local, filled)
    result = _sums(weights, mesh.to_global(own, place), score)
    sums.append(mesh.to_local(result)[:n])
  return np.concatenate(sums)


def referenced(
  phase: MpoPhase, score: Pass, weights: Any, source: Concatenated, place: mesh.Mesh, path: pathlib.Path
) -> tuple[list[Bucket], np.ndarray]:
  """(buckets, float32 [pairs, 2] of reference sums), computed unless the file `path` has them.

  Every process must see `path`. Raises ValueError when no pair fits, or the file is of other pairs.
  """
  if not path.exists():
    needs = measure(score.policy, source)
    sums = np.zeros((len(source), 2), np.float32)
    for bucket in buckets_of(phase, needs):
      rows = BucketRows(score.policy, source, bucket)
      sums[bucket.numbers] = reference_sums(score, weights, rows, place, at_once=phase.reference_batch)
    if jax.process_index() == 0:
      draft = path.with_suffix('.part.npz')
      np.savez(draft, needs=needs, sums=sums, pairs=source.ends)
      draft.replace(path)
  mesh.barrier('reference')
  saved = np.load(path)
  _check_pairs(path, saved['pairs'], source.ends)
  return buckets_of(phase, saved['needs']), saved['sums']


def _check_pairs(path: pathlib.Path, ends: np.ndarray, now: np.ndarray) -> None:
  """Raises ValueError unless the file is of as many pairs in each source as there are now."""
  if ends.tolist() != now.tolist():
    given = f'{now[-1]} in {len(now)}'
    raise ValueError(f'{path} is of {ends[-1]} pairs in {len(ends)} files: expected those given, {given}')


def buckets_of(phase: MpoPhase, needs: np.ndarray) -> list[Bucket]:
  """The buckets of pairs that need int [pairs, 4] slots."""
  return divide(needs, phase.limits, most=phase.buckets, least=phase.batch)
