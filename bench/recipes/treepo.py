"""TreePO against GRPO from flat samples, at as many rollouts, on sums of 2 to 7 digits."""

import dataclasses

from bench.recipes import samples
from bench.recipes.recipe import Recipe
from rl.configs import CONFIGS
from rl.losses import RULES
from rl.rollout.tree import Branching

FULL = CONFIGS['treepo']
NAMED = dataclasses.replace(
  FULL,
  warmup=dataclasses.replace(FULL.warmup, steps=200),
  prompts=16,
  steps=20,
  eval_samples=0,
  eval_queries=64,
  save_every=1000,
)
CONTROL = dataclasses.replace(NAMED, tree=Branching(), advantage='grpo', rule=RULES['dapo'])
RECIPE = Recipe(
  arms={'treepo': NAMED, 'grpo': CONTROL},
  rates=(3e-4, 1e-3, 3e-3),
  choice='pass@1',
  measure=samples.measure,
  measures=samples.MEASURES,
  curves={
    'right': 'right responses\nin training',
    'entropy': 'entropy, nats per token',
  },
)
