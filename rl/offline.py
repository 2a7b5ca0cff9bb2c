"""The offline phase of the cascade: the policy's own samples become preference pairs, and choose the online queries."""

import json
import pathlib

import jax
from absl import logging

import internvl
from core import mesh
from core.training import record
from rl import preference
from rl.recipes import cascade
from rl.recipes.mpo import mpo
from rl.sampler import Sampler
from rl.setup import ROLLOUT_SEED, Setup


def offline(s: Setup, weights, sampler: Sampler, workdir: pathlib.Path, place) -> tuple[internvl.Params, list[int]]:
  """(weights after MPO, numbers of the queries whose accuracy under them lies in the band).

  Samples the first `config.offline.queries` queries of the online stream, with the weights before and after. The
  pairs and the chosen numbers are kept in the workdir, and taken from there by a run that was stopped.
  Raises ValueError when the samples make no pair, or no query lies in the band.
  """
  c = s.config.offline
  queries = s.queries('train', ROLLOUT_SEED, range(c.queries))
  sample = lambda seed: cascade.sample(
    sampler,
    s.processor,
    queries,
    samples=c.samples,
    max_new=s.config.max_new,
    temperature=c.temperature,
    top_k=0,
    seed=seed,
    right=s.task.right,
  )
  path, chosen = workdir / 'pairs.jsonl', workdir / 'queries.json'
  lead, first = sampler.home.index == 0, jax.process_index() == 0  # one engine samples, one process writes
  missing = [file for file in (path, chosen) if not file.exists()]
  mesh.barrier('files looked for')
  if lead and path in missing:
    pairs = cascade.pairs_of(sample(seed=1), most=c.most)
    if not pairs:
      raise ValueError(f'{c.samples} samples of {c.queries} queries make no preference pair')
    if first:
      workdir.mkdir(parents=True, exist_ok=True)
      logging.info('%d preference pairs', preference.write(path, pairs))
  mesh.barrier('pairs')
  pairs = preference.Examples(preference.Records(path), s.processor, thinking=c.phase.thinking)
  weights = mpo(
    c.phase,
    s.model,
    weights,
    {'own': (pairs, 1.0)},
    workdir / 'mpo',
    place=place,
    dtype=s.config.dtype,
    remat=s.config.remat,
  )
  sampler.update(weights)
  if lead and chosen in missing:
    kept = cascade.online_queries(sample(seed=2), c.low, c.high)
    if not kept:
      raise ValueError(f'no query of {c.queries} has an accuracy from {c.low} to {c.high}')
    if first:
      record.replace(chosen, json.dumps(kept))
  mesh.barrier('queries')
  kept = json.loads(chosen.read_text())
  logging.info('%d of %d queries lie in the band', len(kept), c.queries)
  return weights, kept
