"""Cascade RL (InternVL3.5, arXiv 2508.18265): offline MPO on preference pairs, then online GSPO on hard queries.

Here is what stands around the MPO phase (`rl.recipes.mpo`): pairs out of a policy's samples, and the choice of queries.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from core.launch.fields import field
from internvl import Processor
from rl import dynamic, policy, preference
from rl.preference import Pair, Scored
from rl.recipes.mpo import MpoPhase
from rl.rewards import boxed, think_format
from rl.rewards.extract import boxed_answer
from rl.sampler import Sampler
from rl.tasks import Query


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


def score(query: Query, texts: Sequence[str], right: Callable[[str, str], float] = boxed) -> Sampled:
  """Sampled texts with their verdicts; right(text, answer) says 1 for a right one."""
  return Sampled(query, [Scored(t, right(t, query.answer) == 1, think_format(t) == 1, boxed_answer(t)) for t in texts])


def sample(
  sampler: Sampler,
  processor: Processor,
  queries: Sequence[Query],
  *,
  samples: int,
  max_new: int,
  temperature: float = 0.7,
  top_k: int = 50,
  seed: int = 0,
  right: Callable[[str, str], float] = boxed,
) -> list[Sampled]:
  """`samples` answers to each query (MMPR: 32, temperature 0.7, top-k 50)."""
  answers = sampler(
    [processor(q.messages, q.images) for q in queries],
    max_new=max_new,
    samples=samples,
    temperature=temperature,
    top_k=top_k,
    seeds=[seed + n * samples for n in range(len(queries))],
  )
  texts = policy.texts(processor, answers)
  return [score(q, texts[i * samples : (i + 1) * samples], right) for i, q in enumerate(queries)]


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
  return [n for n, s in enumerate(sampled) if dynamic.band(np.array(s.right), len(s.samples), low, high)]
