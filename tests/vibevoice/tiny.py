"""A tiny TTS model whose weights hide no faults, and prompts for it."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from core.files.tokenizers import byte_tokenizer
from core.params import path_name
from vibevoice import model
from vibevoice.config import CONFIGS
from vibevoice.inputs.processor import SPECIAL, Inputs, Processor

CONFIG = CONFIGS['tiny']
HOP = CONFIG.acoustic.hop


def _draw(path, spec):
  name = path_name(path)
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if 'norm' in name or 'scaling' in name:
    return jnp.asarray(rng.uniform(0.6, 1.4, spec.shape), jnp.float32)
  if name.endswith('gamma'):
    return jnp.asarray(rng.uniform(0.2, 0.6, spec.shape), jnp.float32)
  return jnp.asarray(rng.standard_normal(spec.shape) / np.sqrt(spec.fan_in), jnp.float32)


def draw(spec):
  """Weights without zeros: those that training starts from hide faults."""
  return jax.tree.map_with_path(_draw, spec)


@functools.cache
def params() -> model.Params:
  """Those of the tiny TTS model."""
  return draw(model.spec(CONFIG))


@functools.cache
def processor() -> Processor:
  """Bytes as tokens, with the special ones of the tiny config."""
  ids = {getattr(CONFIG, role): token for role, token in SPECIAL.items()}
  return Processor(byte_tokenizer([ids[i] for i in sorted(ids)]), CONFIG)


def prompt(length: int, voices=(), seed: int = 0) -> Inputs:
  """Random text of `length` tokens with the voices' slots in it."""
  rng = np.random.default_rng(seed)
  tokens = list(rng.integers(0, 255, length - 1))
  slots = []
  for clip in voices:
    count = -(-len(clip) // HOP)
    slots += range(len(tokens), len(tokens) + count)
    tokens += [CONFIG.slot] * count
  mask = np.zeros(len(tokens) + 1, bool)
  mask[slots] = True
  return Inputs(np.asarray([*tokens, CONFIG.start], np.int32), mask, tuple(voices))


def clip(samples: int, seed: int = 0) -> np.ndarray:
  """A short noise burst, float32."""
  return np.random.default_rng(seed).standard_normal(samples).astype(np.float32) / 10
