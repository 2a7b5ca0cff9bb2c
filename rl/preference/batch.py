"""Preference pairs as arrays: a prompt, computed once, and its two answers.

B pairs   P prompt slots   N answer slots   n tiles   S pixels a side
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import struct

from core import mesh
from core.launch import field
from internvl import Processor
from rl import losses, policy
from rl.preference.build import answer_tokens, with_tile
from rl.preference.records import Pair


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The room of a pair in a batch."""

  prompt: int = field(8192, 'tokens of a prompt, images included')
  answer: int = field(8192, 'tokens of an answer, its stop token included')
  tiles: int = field(12, 'tiles of a prompt')


@struct.dataclass
class Batch:
  """Pairs for a step of `rl.losses.mpo`."""

  prompts: policy.Prompts  # of [B, …]
  answers: policy.Answers  # of [B, 2, N]; their logp is unused
  reference: Any  # float32 [B, 2], summed log-probabilities under the reference
  token_weight: Any  # float32 [B], see `rl.losses.token_weight_of`


class Examples:
  """Pairs by number as dictionaries of arrays of one shape: a grain source. pairs: a sequence, or `Records`."""

  def __init__(self, pairs: Sequence[Pair], processor: Processor, sizes: Sizes, *, thinking: bool = False):
    self.pairs, self.processor, self.sizes, self.thinking = pairs, processor, sizes, thinking

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    pair, pad = self.pairs[i], self.processor.pad_id
    prompt = with_tile(self.processor(pair.messages, pair.images, thinking=self.thinking))
    answers = [answer_tokens(self.processor, text) for text in (pair.chosen, pair.rejected)]
    need = Sizes(len(prompt.tokens), max(map(len, answers)), len(prompt.pixels))
    if any(getattr(need, f.name) > getattr(self.sizes, f.name) for f in dataclasses.fields(Sizes)):
      raise TooLong(f'pair {i} needs {need}: expected at most {self.sizes}')
    rows = policy.collate([prompt], pad_id=pad, length=self.sizes.prompt)
    said, mask = np.full((2, self.sizes.answer), pad, np.int32), np.zeros((2, self.sizes.answer), bool)
    for k, tokens in enumerate(answers):
      said[k, :len(tokens)], mask[k, :len(tokens)] = tokens, True
    spare = self.sizes.tiles - len(prompt.pixels)
    return {'tokens': rows.tokens[0], 'positions': rows.positions[0], 'said': said, 'mask': mask,
            'pixels': np.pad(rows.pixels[0], ((0, spare), (0, 0), (0, 0), (0, 0)))}


class TooLong(ValueError):
  """A pair that does not fit its `Sizes`."""


def batch(rows: dict[str, Any]) -> Batch:
  """What the loss takes of stacked examples and their references; all rows of the step, for the weights' sake."""
  prompts = policy.Prompts(rows['tokens'], rows['positions'], rows['pixels'])
  answers = policy.Answers(rows['said'], jnp.zeros(rows['said'].shape, jnp.float32), rows['mask'])
  return Batch(prompts, answers, rows['reference'], losses.token_weight_of(rows['mask']))


@functools.partial(jax.jit, static_argnames='config')
def _log_probs(params, config, rows):
  prompts = policy.Prompts(rows['tokens'], rows['positions'], rows['pixels'])
  logp, _ = policy.log_probs(params, config, prompts, policy.Answers(rows['said'], None, rows['mask']))
  return jnp.where(rows['mask'], logp, 0).sum(-1)


def reference(params, config, examples: Examples, *, at_once: int) -> tuple[np.ndarray, np.ndarray]:
  """(numbers of the pairs that fit int64 [K], their summed log-probabilities float32 [K, 2]), one pass over all.

  The others are counted and logged. Raises ValueError when none fits.
  """
  numbers, sums, rows = [], [], []
  def flush():
    padded = rows + [rows[-1]] * (at_once - len(rows))
    stacked = jax.tree.map(lambda *x: np.stack(x), *padded)
    sums.append(mesh.to_local(_log_probs(params, config, stacked))[:len(rows)])
    rows.clear()
  for i in range(len(examples)):
    try:
      rows.append(examples[i])
    except TooLong as error:
      logging.log_every_n(logging.INFO, '%s', 100, error)
      continue
    numbers.append(i)
    if len(rows) == at_once:
      flush()
  if rows:
    flush()
  if not numbers:
    raise ValueError(f'none of {len(examples)} pairs fits {examples.sizes}')
  if len(numbers) < len(examples):
    logging.warning('%d of %d pairs do not fit %s and are left out', len(examples) - len(numbers), len(examples),
                    examples.sizes)
  return np.array(numbers), np.concatenate(sums)


class Referenced:
  """The pairs that fit, with the reference's log-probabilities beside each: a grain source."""

  def __init__(self, examples: Examples, numbers: np.ndarray, sums: np.ndarray):
    self.examples, self.numbers, self.sums = examples, numbers, sums

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    return self.examples[int(self.numbers[i])] | {'reference': self.sums[i]}
