"""An InternVL policy: prompts in, sampled answers out, and their log-probabilities for training.

B rows   P prompt slots   N answer slots   n tiles a row   S pixels a side
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder, sample
from core.params import unstack
from internvl import Processor, model
from internvl.processor import Inputs


@struct.dataclass
class Prompts:
  """Prompts that all end in the same column, so that answers start in one."""

  tokens: Any  # int32 [B, P]
  positions: Any  # int32 [B, P], -1 at the padding on the left
  pixels: Any  # float32 [B, n, S, S, 3]

  def repeat(self, times: int) -> 'Prompts':
    """Each row `times` times in a row."""
    return jax.tree.map(lambda x: np.repeat(x, times, 0), self)


@struct.dataclass
class Answers:
  """What was sampled: tokens int32 [B, N], logp float32 [B, N] as sampled, mask bool [B, N] of the tokens there are."""

  tokens: Any
  logp: Any
  mask: Any


def collate(inputs: Sequence[Inputs], *, pad_id: int, length: int | None = None) -> Prompts:
  """Prompts of several conversations, padded on the left to a bucket (or to `length`), tiles on the right.

  Raises ValueError when `length` is too short.
  """
  longest = max(len(x.tokens) for x in inputs)
  length = sample.bucket(longest) if length is None else length
  if longest > length:
    raise ValueError(f'a prompt has {longest} tokens; expected at most {length}')
  tiles = max(len(x.pixels) for x in inputs)
  tokens = np.full((len(inputs), length), pad_id, np.int32)
  positions = np.full((len(inputs), length), -1, np.int32)
  pixels = np.zeros((len(inputs), tiles, *inputs[0].pixels.shape[1:]), np.float32)
  for row, x in enumerate(inputs):
    n = len(x.tokens)
    tokens[row, length - n:], positions[row, length - n:] = x.tokens, np.arange(n)
    pixels[row, :len(x.pixels)] = x.pixels
  return Prompts(tokens, positions, pixels)


@functools.partial(jax.jit, static_argnames='config')
def _prepare(params, config, tokens, pixels):
  """Prompt embeddings [B, P, D], and the language model's weights laid out for decoding."""
  images, _ = model.encode(params, config, pixels)
  language = params.language
  if jax.default_backend() != 'tpu':
    language = language.replace(blocks=unstack(language.blocks))
  return model.embed(params, config, tokens, images), language


def answer(params: model.Params, config: model.Config, prompts: Prompts, *, max_new: int, stop: int,
           sampling: sample.Sampling) -> Answers:
  """Samples one answer a row."""
  x, language = _prepare(params, config, prompts.tokens, prompts.pixels)
  state = sample.generate(language, config.language, x, prompts.positions, max_new=max_new, sampling=sampling,
                          stops=(stop,))
  mask = jnp.arange(max_new) < state.count[:, None]
  return Answers(state.tokens[:, :max_new], state.logp[:, :max_new], mask)


def log_probs(params: model.Params, config: model.Config, prompts: Prompts, answers: Answers):
  """(log-probability, entropy) float32 [B, N] of each answer token given what stands before it."""
  start = prompts.tokens.shape[1]
  after = prompts.positions.max(-1, keepdims=True) + 1 + jnp.arange(answers.tokens.shape[1])
  tokens = jnp.concatenate([prompts.tokens, answers.tokens], 1)
  positions = jnp.concatenate([prompts.positions, jnp.where(answers.mask, after, -1)], 1)
  out = model.forward(params, config, tokens, pixels=prompts.pixels, positions=positions)
  return decoder.log_probs(params.language, config.language, out.hidden[:, start - 1:-1], answers.tokens)


def texts(processor: Processor, answers: Answers) -> list[str]:
  """The answers as text."""
  tokens, mask = np.asarray(answers.tokens), np.asarray(answers.mask)
  return [processor.answer(row[m]) for row, m in zip(tokens, mask)]
