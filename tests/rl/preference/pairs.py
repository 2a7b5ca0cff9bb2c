"""Preference pairs and a tiny policy to read them."""

import dataclasses

import jax

import internvl
from internvl.inputs.processor_config import ProcessorConfig
from rl.policy.vision_language import VisionLanguagePolicy
from rl.preference import Limits, Pair
from rl.tasks import expressions_query

LIMITS = Limits(prompt=48, response=48, tiles=3)
TEXT_PAIR = Pair([{'role': 'user', 'content': 'Hi'}], [], 'yes', 'no')


def over_bytes(template: str = 'internvl_hf', **settings) -> internvl.Processor:
  """A processor of bytes for the tiny model."""
  tiny = internvl.CONFIGS['tiny']
  return internvl.Processor.over_bytes(
    ProcessorConfig(
      image_size=tiny.vision.image_size,
      tokens_per_tile=tiny.tokens_per_tile,
      max_tiles=3,
      thumbnail=False,
      template=template,
      **{'system': '', 'max_length': 512} | settings,
    )
  )


def tiny_policy(template: str = 'internvl_hf', **settings) -> VisionLanguagePolicy:
  """The tiny policy with such a processor."""
  processor = over_bytes(template, **settings)
  config = dataclasses.replace(internvl.CONFIGS['tiny'], image_token=processor.image_id)
  return VisionLanguagePolicy(config, processor)


def initial(policy: VisionLanguagePolicy) -> internvl.Params:
  """Its random weights; always the same."""
  return internvl.init(jax.random.key(0), policy.config)


def digits_pairs(n: int) -> list[Pair]:
  """Right solutions of expressions of digits, against ones whose result is off by one."""
  pairs = []
  for query in (expressions_query('train', 1, i) for i in range(n)):
    result, wrong = query.answer, int(query.answer) + 1
    rejected = query.solution.replace(f'boxed{{{result}}}', f'boxed{{{wrong}}}')
    pairs.append(Pair(query.messages, query.images, query.solution, rejected, query.answer))
  return pairs
