"""An InternVL policy: prompts in, sampled answers out, and their log-probabilities for training.

B prompts   G answers to each   P prompt slots   N answer slots   n tiles a prompt   S pixels a side

A prompt's images are encoded once for all its answers.
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


@struct.dataclass
class Answers:
  """What was sampled, each [B, G, N]: tokens int32, logp float32 as sampled, mask bool of the tokens there are."""

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


def _embed(params, config, prompts: Prompts, times: int) -> jax.Array:
  """Prompt embeddings, each `times` times in a row: [B * times, P, D]."""
  images, _ = model.encode(params, config, prompts.pixels)
  return jnp.repeat(model.embed(params, config, prompts.tokens, images), times, 0)


@functools.partial(jax.jit, static_argnames=('config', 'times'))
def _prepare(params, config, prompts, times):
  """Prompt embeddings, and the language model's weights laid out for decoding."""
  language = params.language
  if jax.default_backend() != 'tpu':
    language = language.replace(blocks=unstack(language.blocks))
  return _embed(params, config, prompts, times), language


def answer(params: model.Params, config: model.Config, prompts: Prompts, *, max_new: int, stop: int,
           sampling: sample.Sampling) -> Answers:
  """Samples as many answers to each prompt as `sampling` has rows for it: B * G rows, a prompt's beside each other."""
  rows, times = prompts.tokens.shape[0], sampling.seed.shape[0] // prompts.tokens.shape[0]
  x, language = _prepare(params, config, prompts, times)
  state = sample.generate(language, config.language, x, np.repeat(prompts.positions, times, 0), max_new=max_new,
                          sampling=sampling, stops=(stop,))
  mask = jnp.arange(max_new) < state.count[:, None]
  group = lambda a: a[:, :max_new].reshape(rows, times, max_new)
  return Answers(group(state.tokens), group(state.logp), group(mask))


def log_probs(params: model.Params, config: model.Config, prompts: Prompts, answers: Answers):
  """(log-probability, entropy) float32 [B, G, N] of each answer token given what stands before it."""
  b, g, n = answers.tokens.shape
  start = prompts.tokens.shape[1]
  said, mask = answers.tokens.reshape(b * g, n), answers.mask.reshape(b * g, n)
  before = jnp.repeat(prompts.positions, g, 0)
  after = before.max(-1, keepdims=True) + 1 + jnp.arange(n)
  positions = jnp.concatenate([before, jnp.where(mask, after, -1)], 1)
  x = jnp.concatenate([_embed(params, config, prompts, g), decoder.embed(params.language, said)], 1)
  out = decoder.forward(params.language, config.language, x, positions=positions)
  pair = decoder.log_probs(params.language, config.language, out.hidden[:, start - 1:-1], said)
  return tuple(x.reshape(b, g, n) for x in pair)


def texts(processor: Processor, answers: Answers) -> list[str]:
  """The answers as text, those to one prompt beside each other."""
  slots = answers.tokens.shape[-1]
  tokens, mask = np.asarray(answers.tokens).reshape(-1, slots), np.asarray(answers.mask).reshape(-1, slots)
  return [processor.answer(row[m]) for row, m in zip(tokens, mask)]
