"""A Whisper of a few thousand weights with a byte vocabulary, and its processor."""

import dataclasses

import jax
import numpy as np

from core.files.tokenizers import byte_tokenizer
from interp.whisper import Config, Processor, init

MARKS = (
  '<|endoftext|>',
  '<|startoftranscript|>',
  '<|en|>',
  '<|de|>',
  '<|translate|>',
  '<|transcribe|>',
  '<|startoflm|>',
  '<|startofprev|>',
  '<|nospeech|>',
  '<|notimestamps|>',
)
TIMES = tuple(f'<|{i / 50:.2f}|>' for i in range(21))  # windows of 0.4 s
CONFIG = Config(
  width=32,
  heads=4,
  encoder_depth=2,
  decoder_depth=3,
  vocab=256 + len(MARKS) + len(TIMES),
  mels=8,
  audio_length=20,
  text_length=40,
)


def processor(**published) -> Processor:
  """With the lists that a generation_config.json would give."""
  return Processor.of(byte_tokenizer((*MARKS, *TIMES)), {'is_multilingual': True} | published)


def params(seed: int = 0, config: Config = CONFIG):
  """Weights large enough that layers, positions and audio matter."""
  drawn = init(jax.random.key(seed), config)
  keys = iter(jax.random.split(jax.random.key(seed + 1), 200))
  return jax.tree.map(lambda w: w + 0.3 * jax.random.normal(next(keys), w.shape) * (w.ndim < 3), drawn)


def mel(rows: int = 2, seed: int = 0, config: Config = CONFIG) -> np.ndarray:
  """Random log-mel windows."""
  return np.random.default_rng(seed).normal(size=(rows, config.frames, config.mels)).astype(np.float32)


def deeper(**changes) -> Config:
  """CONFIG with other fields."""
  return dataclasses.replace(CONFIG, **changes)
