"""A policy's own samples with their verdicts: for preference pairs, and for the measured accuracy of queries.

Both serve Cascade RL (InternVL3.5, arXiv 2508.18265): offline MPO on preference pairs, then online GSPO on queries that
are neither solved nor out of reach.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rl.policy import Draw
from rl.preference.build import JudgedSample, correctness_pairs
from rl.preference.records import Pair
from rl.query import Query
from rl.rewards import Scorer, think_format
from rl.rewards.extract import boxed_answer
from rl.rollout import Sampler, flat
from rl.rollout.dynamic import band


@dataclasses.dataclass(frozen=True)
class Sampled:
  """A query and its samples."""

  query: Query
  samples: list[JudgedSample]

  @property
  def right(self) -> int:
    """How many samples are right."""
    return sum(s.right for s in self.samples)


def score(query: Query, texts: Sequence[str], right: Sequence[bool]) -> Sampled:
  """Sampled texts of one query, with which of them are right."""
  samples = []
  for text, verdict in zip(texts, right):
    formed = think_format(text) == 1
    samples.append(JudgedSample(text, bool(verdict), formed, result=boxed_answer(text)))
  return Sampled(query, samples)


def sample(
  sampler: Sampler, queries: Sequence[Query], draw: Draw, scorer: Scorer, *, samples: int, seed: int = 0
) -> list[Sampled]:
  """`samples` responses to each query, with their verdicts (MMPR: 32 of them, temperature 0.7, top-k 50)."""
  prompts = [sampler.policy.prompt(q.messages, q.images) for q in queries]
  seeds = range(seed, seed + len(queries) * samples, samples)
  groups = flat.sample(sampler, prompts, draw, samples=samples, seeds=seeds)
  texts = [[t.response for t in group] for group in groups]
  verdicts = scorer.right(queries, texts)
  return [score(*one) for one in zip(queries, texts, verdicts)]


def pairs_of(sampled: Sequence[Sampled], *, most: int = 15, seed: int = 0) -> list[Pair]:
  """Up to `most` correctness pairs of each query."""
  pairs = []
  for n, one in enumerate(sampled):
    q = one.query
    pairs += correctness_pairs(q.messages, q.images, q.answer, one.samples, most=most, seed=seed + n)
  return pairs


def online_queries(sampled: Sequence[Sampled], low: float = 0.2, high: float = 0.8) -> list[int]:
  """Numbers of the queries whose measured accuracy is from `low` to `high` (MMPR-Tiny)."""
  chosen = []
  for n, one in enumerate(sampled):
    right = np.array(one.right)
    tried = len(one.samples)
    if band(right, tried, low, high):
      chosen.append(n)
  return chosen
