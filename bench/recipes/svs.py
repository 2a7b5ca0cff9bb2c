"""SvS against GRPO at equal sampled tokens, on sums of 2 to 6 digits."""

import dataclasses

import numpy as np

from bench.recipes.recipe import Columns, Recipe
from rl.configs import CONFIGS, Config
from rl.policy import Draw, Trajectory
from rl.query import Query
from rl.rewards import REWARDS
from rl.rollout import Ask, Flat, Sampler

SAMPLES = 16
TOKENS = 120_000  # sampled in a trial: problems, texts and variants


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


# A rollout of SvS samples many times what it is asked for: small ones, so that both arms end near the same tokens.
NAMED = dataclasses.replace(
  CONFIGS['svs'],
  prompts=8,
  steps=1000,
  tokens=TOKENS,
  eval_samples=0,
  eval_queries=128,
  eval_every=1000,
  save_every=1000,
)
CONTROL = dataclasses.replace(NAMED, svs=dataclasses.replace(NAMED.svs, variants=0))
RECIPE = Recipe(
  arms={'svs': NAMED, 'grpo': CONTROL},
  rates=(3e-4, 1e-3, 3e-3),
  choice='pass@1',
  measure=measure,
  measures={
    'pass@1': 'pass@1',
    f'pass@{SAMPLES}': f'pass@{SAMPLES}',
    'entropy': 'entropy, nats per token',
  },
  curves={
    'right': 'right responses\nin training',
    'entropy': 'entropy of trained\ntokens, nats',
  },
  tokens=True,
)
