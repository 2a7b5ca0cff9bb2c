"""What a study measures of a model on a task with right answers: several samples to each held-out question."""

import numpy as np

from bench.recipes.recipe import Columns
from rl.configs import Config
from rl.policy import Draw, Trajectory
from rl.query import Query
from rl.rewards import REWARDS
from rl.rollout import Ask, Flat, Sampler

SAMPLES = 16
MEASURES = {
  'pass@1': 'pass@1',
  f'pass@{SAMPLES}': f'pass@{SAMPLES}',
  'entropy': 'entropy, nats per token',
}


def measure(sampler: Sampler, ask: Ask, config: Config) -> Columns:
  """Of 16 samples a question: pass@1, pass@16, and the entropy of a token in nats, by the samples themselves."""
  groups = Flat(Draw(config.max_new), SAMPLES)(sampler, ask)
  right = np.array([graded(*pair) for pair in zip(ask.queries, groups, strict=True)])
  return {
    'pass@1': right.mean(1).tolist(),
    f'pass@{SAMPLES}': right.max(1).tolist(),
    'entropy': [surprise(group) for group in groups],
  }


def graded(query: Query, group: list[Trajectory]) -> list[float]:
  """1 for each right response, else 0."""
  check = REWARDS['boxed'].function
  return [float(check(query, t.response)) for t in group]


def surprise(group: list[Trajectory]) -> float:
  """The mean of -log p over the tokens of a group: an unbiased estimate of what they have in entropy."""
  every = np.concatenate([t.logp for t in group])
  return -float(every.mean())
