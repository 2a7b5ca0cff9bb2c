"""The offline phase of the cascade: the policy's own samples become preference pairs, and choose the online queries."""

import json
import pathlib
from typing import Any

import jax
from absl import logging

from core import mesh
from core.training import record
from rl.policy import Draw, Policy, Reading
from rl.preference import records, samples
from rl.preference.examples import Examples
from rl.preference.phase import mpo
from rl.preference.settings import Offline
from rl.rewards import Scorer
from rl.rollout import Sampler
from rl.rollout.collect import QuerySource


def offline(
  weights: Any,
  sampler: Sampler,
  source: QuerySource,
  scorer: Scorer,
  workdir: pathlib.Path,
  place: mesh.Mesh,
  *,
  settings: Offline,
  max_new: int,
  dtype: str = 'float32',
  remat: str = 'none',
) -> tuple[Any, list[int]]:
  """(weights after MPO, numbers of the queries whose accuracy under them is within the settings' band).

  Samples the first `settings.queries` queries of the online stream, with the weights before and after, `max_new` tokens
  a response at most. The pairs and the chosen numbers are kept in the workdir, and read from there by a run that was
  stopped. Raises ValueError when the samples make no pair, or no query is within the band.
  """
  queries = [source.query(n) for n in range(settings.queries)]
  draw = Draw(max_new, settings.temperature)

  def sample(seed: int) -> list[samples.Sampled]:
    return samples.sample(sampler, queries, draw, scorer, samples=settings.samples, seed=seed)

  lead = sampler.home.index == 0  # one engine samples
  pairs_file = workdir / 'pairs.jsonl'
  chosen_file = workdir / 'queries.json'
  sample_pairs = lead and not pairs_file.exists()
  choose = lead and not chosen_file.exists()
  mesh.barrier('files looked for')
  if sample_pairs:
    _write_pairs(pairs_file, sample(1), settings)
  mesh.barrier('pairs')
  parts = {'own': (_examples(pairs_file, source.policy, settings), 1.0)}
  weights = mpo(settings.phase, source.policy, weights, parts, workdir / 'mpo', place=place, dtype=dtype, remat=remat)
  sampler.update(weights)
  if choose:
    _write_chosen(chosen_file, sample(2), settings)
  mesh.barrier('queries')
  return weights, json.loads(chosen_file.read_text())


def _examples(path: pathlib.Path, policy: Policy, settings: Offline) -> Examples:
  return Examples(records.Records(path), policy, reading=Reading(thinking=settings.phase.thinking))


def _write_pairs(path: pathlib.Path, sampled: list[samples.Sampled], settings: Offline) -> None:
  """The first process writes the pairs of these samples."""
  pairs = samples.pairs_of(sampled, most=settings.most)
  if not pairs:
    raise ValueError(f'{settings.samples} samples of {settings.queries} queries make no preference pair')
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.info('%d preference pairs', records.write(path, pairs))


def _write_chosen(path: pathlib.Path, sampled: list[samples.Sampled], settings: Offline) -> None:
  """The first process writes the numbers of the queries within the band."""
  kept = samples.online_queries(sampled, settings.low, settings.high)
  if not kept:
    band = f'{settings.low} to {settings.high}'
    raise ValueError(f'no query of {settings.queries} has an accuracy from {band}')
  logging.info('%d of %d queries are within the band', len(kept), settings.queries)
  if jax.process_index() == 0:
    record.replace(path, json.dumps(kept))
