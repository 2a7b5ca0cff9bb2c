"""SvS against GRPO at equal sampled tokens, on sums of 2 to 7 digits."""

import dataclasses

from bench.recipes import samples
from bench.recipes.recipe import Recipe
from rl.configs import CONFIGS

TOKENS = 160_000  # sampled in a trial: problems, texts and variants

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
  rates=(1e-4, 3e-4, 1e-3),
  choice='pass@1',
  measure=samples.measure,
  measures=samples.MEASURES,
  curves={
    'right': 'right responses\nin training',
    'entropy': 'entropy of trained\ntokens, nats',
  },
  tokens=True,
)
