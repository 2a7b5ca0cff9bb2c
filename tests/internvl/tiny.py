"""A tiny InternVL over bytes, for tests of its programs."""

import dataclasses

import jax
import numpy as np

import internvl
from internvl.flash import router
from internvl.inputs.processor_config import ProcessorConfig

IMAGES = list(np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3), np.uint8))


def processor(template: str = 'internvl2_5', **settings) -> internvl.Processor:
  defaults = {
    'image_size': 16,
    'tokens_per_tile': 4,
    'max_tiles': 4,
    'system': '',
    'max_length': 1024,
    'video_frames': 2,
  }
  return internvl.Processor.over_bytes(ProcessorConfig(template=template, **(defaults | settings)))


def model(of: internvl.Processor, seed: int = 0, flash: router.Config | None = None, **language):
  """(config, params) with every token of the vocabulary one that `of` can say; flash: of a Flash model."""
  tiny = internvl.CONFIGS['tiny']
  # A head of its own: a random model with a tied one only repeats its last token.
  language = {'vocab': len(of.tokenizer), 'depth': 1, 'tied': False} | language
  config = dataclasses.replace(
    tiny,
    image_token=of.image_id,
    flash=flash,
    language=dataclasses.replace(tiny.language, **language),
    vision=dataclasses.replace(tiny.vision, depth=1),
  )
  params = internvl.init(jax.random.key(seed), config)
  loud = jax.tree.map(lambda w: 5 * w if w.ndim > 1 else w, params)  # so that what is seen changes what is said
  return config, internvl.for_decoding(loud)
