"""A Whisper of a few thousand weights with a byte vocabulary, and its processor."""

import jax
import jax.numpy as jnp
import numpy as np

from core.files.tokenizers import byte_tokenizer
from core.params import ones
from interp.whisper import Config, Processor, spec

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
  """Weights large enough that layers, positions and audio matter; drawn by numpy, since nothing is compiled for it."""
  rng = np.random.default_rng(seed)

  def draw(s):
    noise = rng.normal(size=s.shape)
    if s.init is None:
      return jnp.asarray(noise / s.fan_in**0.5, jnp.float32)
    centre = 1.0 if s.init is ones else 0.0
    return jnp.asarray(centre + 0.3 * noise, jnp.float32)

  return jax.tree.map(draw, spec(config))


def mel(rows: int = 2, seed: int = 0, config: Config = CONFIG) -> np.ndarray:
  """Random log-mel windows."""
  return np.random.default_rng(seed).normal(size=(rows, config.frames, config.mels)).astype(np.float32)
