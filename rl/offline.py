"""The offline phase of the cascade: the policy's own samples become preference pairs, and choose the online queries."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from core import mesh
from core.training import record
from rl import preference
from rl.policy import Draw
from rl.recipes import cascade
from rl.recipes.mpo import mpo
from rl.rewards import Scorer
from rl.rollout import Sampler
from rl.rollout.collect import Source


def offline(
  weights: Any,
  sampler: Sampler,
  source: Source,
  scorer: Scorer,
  workdir: pathlib.Path,
  place: mesh.Mesh,
  *,
  config: Any,
) -> tuple[Any, list[int]]:
  """(weights after MPO, numbers of the queries whose accuracy under them lies in the band).

  Samples the first `config.offline.queries` queries of the online stream, with the weights before and after. The
  pairs and the chosen numbers are kept in the workdir, and read from there by a run that was stopped.
  Raises ValueError when the samples make no pair, or no query lies in the band.
  """
  c, policy = config.offline, source.policy
  sample = _sample_of(sampler, source, scorer, config)
  path, chosen = workdir / 'pairs.jsonl', workdir / 'queries.json'
  lead, first = sampler.home.index == 0, jax.process_index() == 0  # one engine samples, one process writes
  missing = [file for file in (path, chosen) if not file.exists()]
  mesh.barrier('files looked for')
  if lead and path in missing:
    pairs = cascade.pairs_of(sample(1), most=c.most)
    if not pairs:
      raise ValueError(f'{c.samples} samples of {c.queries} queries make no preference pair')
    if first:
      workdir.mkdir(parents=True, exist_ok=True)
      logging.info('%d preference pairs', preference.write(path, pairs))
  mesh.barrier('pairs')
  pairs = preference.Examples(preference.Records(path), policy.processor, thinking=c.phase.thinking)
  options = {'place': place, 'dtype': config.dtype, 'remat': config.remat}
  weights = mpo(c.phase, policy.config, weights, {'own': (pairs, 1.0)}, workdir / 'mpo', **options)
  sampler.update(weights)
  if lead and chosen in missing:
    kept = cascade.online_queries(sample(2), c.low, c.high)
    if not kept:
      raise ValueError(f'no query of {c.queries} has an accuracy from {c.low} to {c.high}')
    if first:
      record.replace(chosen, json.dumps(kept))
  mesh.barrier('queries')
  kept = json.loads(chosen.read_text())
  logging.info('%d of %d queries lie in the band', len(kept), c.queries)
  return weights, kept


def _sample_of(sampler: Sampler, source: Source, scorer: Scorer, config: Any) -> Callable[[int], list[cascade.Sampled]]:
  """From a seed to samples of the phase's queries with their verdicts."""
  c = config.offline
  queries = [source.query(n) for n in range(c.queries)]
  draw = Draw(config.max_new, c.temperature)
  return lambda seed: cascade.sample(sampler, queries, draw, scorer, samples=c.samples, seed=seed)
