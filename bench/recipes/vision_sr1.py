"""Vision-SR1 against GRPO on digits with a planted language shortcut."""

import dataclasses

from bench.recipes.recipe import Columns, Recipe
from core.toy import shortcut
from rl.configs import CONFIGS, Config
from rl.query import Query
from rl.rollout import Ask, Sampler
from rl.rollout.vision_sr1 import prompts, rewards
from rl.train import greedy_plan


def shown(query: Query) -> tuple[int, ...]:
  """The digits of the image: those that the solution describes."""
  return tuple(map(int, prompts.description(query.solution).split()))


def measure(sampler: Sampler, ask: Ask, config: Config) -> Columns:
  """Greedy answers: right; with digits named; right without (the shortcut), by the digits and by the policy itself."""
  found = {'right': [], 'seen': [], 'shortcut': [], 'self_shortcut': [], 'verbatim': []}
  for query, (answer,) in zip(ask.queries, greedy_plan(config)(sampler, ask), strict=True):
    two = answer.response
    right = rewards.right(query, two)
    seen = float(shortcut.sufficient(two.described, shown(query)))
    said = rewards.components(query, two)['description_accuracy']
    found['right'].append(right)
    found['seen'].append(seen)
    found['shortcut'].append(rewards.shortcut_rate([right], [seen]))
    found['self_shortcut'].append(rewards.shortcut_rate([right], [said]))
    found['verbatim'].append(rewards.verbatim(query, two))
  return found


def control(config: Config) -> Config:
  """The same without the reward of descriptions."""
  return dataclasses.replace(config, sr1=dataclasses.replace(config.sr1, generation='no_self_reward'))


NAMED = dataclasses.replace(CONFIGS['vision_sr1'], prompts=16, steps=24, eval_queries=128, eval_every=6, save_every=24)
RECIPE = Recipe(
  arms={'sr1': NAMED, 'grpo': control(NAMED)},
  rates=(3e-4, 1e-3, 3e-3),
  choice='right',
  measure=measure,
  measures={
    'right': 'right answers',
    'seen': 'descriptions that name both digits',
    'shortcut': 'language shortcut rate, judged by the digits',
    'self_shortcut': 'the same, judged by the policy',
    'verbatim': 'descriptions with the answer in them',
  },
  curves={
    'heldout_accuracy': 'right answers',
    'heldout_description': 'right from the\ndescription alone',
    'heldout_shortcut': 'shortcut rate,\njudged by the policy',
    'entropy': 'entropy, nats per token',
  },
)
