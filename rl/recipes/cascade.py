"""Cascade RL (InternVL3.5, arXiv 2508.18265): offline MPO on preference pairs, then online GSPO on hard queries.

Here is what stands around the MPO phase (`rl.recipes.mpo`): pairs out of a policy's samples, and the choice of queries.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.launch.fields import field
from rl import preference
from rl.policy import Draw
from rl.preference import Pair, Scored
from rl.query import Query
from rl.recipes.mpo import MpoPhase
from rl.rewards import Scorer, think_format
from rl.rewards.extract import boxed_answer
from rl.rollout import Sampler, flat
from rl.rollout.dynamic import band


@dataclasses.dataclass(frozen=True)
class Offline:
  """What stands before the online phase: pairs out of the policy's own samples, MPO on them, the choice of queries."""

  queries: int = field(0, 'queries sampled for pairs, and again after MPO for their accuracy; 0: no offline phase')
  samples: int = field(16, 'samples of each')
  temperature: float = field(1.0, 'of that sampling')
  most: int = field(15, 'pairs of a query, at most')
  low: float = field(0.2, 'least accuracy of a query that goes on to the online phase')
  high: float = field(0.8, 'highest accuracy of such a query')
  phase: MpoPhase = field(MpoPhase(), 'the MPO run')

  def __post_init__(self):
    if self.queries < 0 or self.samples < 2 or self.most < 1:
      raise ValueError(f'queries={self.queries}, samples={self.samples}, most={self.most}: expected 0, 2, 1 or more')
    if not 0 <= self.low <= self.high <= 1:
      raise ValueError(f'low={self.low}, high={self.high}: expected 0 <= low <= high <= 1')


@dataclasses.dataclass(frozen=True)
class Sampled:
  """Samples of a query, for pairs and for its measured accuracy."""

  query: Query
  samples: list[Scored]

  @property
  def right(self) -> int:
    """How many are right."""
    return sum(s.right for s in self.samples)


def score(query: Query, texts: Sequence[str], right: Sequence[bool]) -> Sampled:
  """Sampled texts of one query, with which of them are right."""
  return Sampled(query, [Scored(t, bool(ok), think_format(t) == 1, boxed_answer(t)) for t, ok in zip(texts, right)])


def sample(
  sampler: Sampler, queries: Sequence[Query], draw: Draw, scorer: Scorer, *, samples: int, seed: int = 0
) -> list[Sampled]:
  """`samples` responses to each query, with their verdicts (MMPR: 32 of them, temperature 0.7, top-k 50)."""
  prompts = [sampler.policy.prompt(q.messages, q.images) for q in queries]
  seeds = [seed + n * samples for n in range(len(queries))]
  groups = flat.sample(sampler, prompts, draw, samples=samples, seeds=seeds)
  texts = [[t.response for t in group] for group in groups]
  return [score(*one) for one in zip(queries, texts, scorer.right(queries, texts))]


def pairs_of(sampled: Sequence[Sampled], *, most: int = 15, seed: int = 0) -> list[Pair]:
  """Up to `most` correctness pairs of each query."""
  return [
    pair
    for n, s in enumerate(sampled)
    for pair in preference.correctness_pairs(
      s.query.messages, s.query.images, s.query.answer, s.samples, most=most, seed=seed + n
    )
  ]


def online_queries(sampled: Sequence[Sampled], low: float = 0.2, high: float = 0.8) -> list[int]:
  """Which queries' measured accuracies lie in the band: neither hopeless nor solved (MMPR-Tiny)."""
  return [n for n, s in enumerate(sampled) if band(np.array(s.right), len(s.samples), low, high)]
