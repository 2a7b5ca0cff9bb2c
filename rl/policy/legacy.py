"""An InternVL policy as arrays: prompts, answers to them, and the log-probabilities of those for training.

B prompts   G answers to each   P prompt slots   N answer slots   n tiles a prompt   S pixels a side

A prompt, images included, is computed once for all its answers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.padding import bucket
from core.past import Prefix
from internvl import Processor, model
from internvl.inputs.processor import Inputs


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


def collate(inputs: Sequence[Inputs], *, pad_id: int, length: int | None = None, tiles: int | None = None) -> Prompts:
  """Prompts of several conversations, padded on the left to a bucket (or to `length`), tiles (to `tiles`) on the right.

  Raises ValueError when `length` or `tiles` is too small.
  """
  longest = max(len(x.tokens) for x in inputs)
  length = bucket(longest) if length is None else length
  if longest > length:
    raise ValueError(f'a prompt has {longest} tokens; expected at most {length}')
  most = max(len(x.pixels) for x in inputs)
  tiles = most if tiles is None else tiles
  if most > tiles:
    raise ValueError(f'a prompt has {most} image tiles; expected at most {tiles}')
  tokens = np.full((len(inputs), length), pad_id, np.int32)
  positions = np.full((len(inputs), length), -1, np.int32)
  pixels = np.zeros((len(inputs), tiles, *inputs[0].pixels.shape[1:]), np.float32)
  for row, x in enumerate(inputs):
    n = len(x.tokens)
    tokens[row, length - n :], positions[row, length - n :] = x.tokens, np.arange(n)
    pixels[row, : len(x.pixels)] = x.pixels
  return Prompts(tokens, positions, pixels)


def _embed(params, config, prompts: Prompts, remat: str) -> jax.Array:
  """Prompt embeddings [B, P, D]."""
  images, _ = model.encode(params, config, prompts.pixels.astype(params.language.embed.dtype), remat_policy=remat)
  return model.embed(params, config, prompts.tokens, images)


def log_probs(
  params: model.Params,
  config: model.Config,
  prompts: Prompts,
  answers: Answers,
  *,
  temperature: float = 1.0,
  remat: str = 'none',
):
  """(log-probability, entropy) float32 [B, G, N] of each answer token given what stands before it, at a temperature.

  remat: a policy of `core.remat`. A prompt goes through the model once; its answers go on from its keys and values.
  """
  b, g, n = answers.tokens.shape
  said = answers.tokens.reshape(b * g, n)
  language = params.language
  prompt = decoder.forward(
    language,
    config.language,
    _embed(params, config, prompts, remat),
    positions=prompts.positions,
    cache=prompts.tokens.shape[1],
    remat_policy=remat,
  )
  start = jnp.repeat(prompts.positions.max(-1, keepdims=True) + 1, g, 0)
  positions = jnp.where(answers.mask.reshape(b * g, n), start + jnp.arange(n), -1)
  # All N tokens, although none follows the last: a mesh splits N, and seldom N - 1.
  rest = decoder.forward(
    language,
    config.language,
    decoder.embed(language, said),
    positions=positions,
    cache=Prefix(prompt.cache),
    remat_policy=remat,
  )
  hidden = jnp.concatenate([jnp.repeat(prompt.hidden[:, -1:], g, 0), rest.hidden[:, :-1]], 1)
  pair = decoder.log_probs(language, config.language, hidden, said, temperature=temperature)
  return tuple(x.reshape(b, g, n) for x in pair)


def texts(processor: Processor, answers: Answers) -> list[str]:
  """The answers as text, those to one prompt beside each other."""
  slots = answers.tokens.shape[-1]
  tokens, mask = np.asarray(answers.tokens).reshape(-1, slots), np.asarray(answers.mask).reshape(-1, slots)
  return [processor.answer(row[m]) for row, m in zip(tokens, mask)]
