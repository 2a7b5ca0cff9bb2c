"""Preference pairs as arrays: a prompt, computed once, and its two answers.

B pairs   P prompt slots   N answer slots   n tiles   S pixels a side
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import mesh
from core import params as params_lib
from core.conversations.rows import Rows
from internvl import Processor
from rl import losses, policy
from rl.preference.build import answer_tokens, with_tile
from rl.preference.records import Pair
from rl.preference.rooms import Sizes

THREADS = 16  # that read images


@struct.dataclass
class Batch:
  """Pairs for a step of `rl.losses.mpo`."""

  prompts: policy.Prompts  # of [B, …]
  answers: policy.Answers  # of [B, 2, N]; their logp is unused
  reference: Any  # float32 [B, 2], summed log-probabilities under the reference
  token_weight: Any  # float32 [B], see `rl.losses.token_weight_of`


class Source(Protocol):
  """Pairs by number."""

  def __len__(self) -> int: ...
  def need(self, i: int) -> np.ndarray: ...  # int32 [3], what `Sizes.holds` takes
  def row(self, i: int, room: Sizes) -> dict[str, np.ndarray]: ...  # arrays of one shape a room


class Examples:
  """A sequence of pairs, or `Records`, as arrays.

  thinking: prompts carry the layout's system text for reasoning. augment: JPEG recompression of tiles, which depends on
  (seed, number) alone, so that policy and reference see the same. How long a conversation may be is for rooms to say,
  not for the processor. Raises ValueError and FileNotFoundError, when a pair is read, with its place.
  """

  def __init__(
    self, pairs: Sequence[Pair], processor: Processor, *, thinking: bool = False, augment: bool = False, seed: int = 0
  ):
    unlimited = dataclasses.replace(processor.config, max_length=2**31 - 1)
    self.pairs, self.processor = pairs, Processor(unlimited, processor.tokenizer)
    self.thinking, self.augment, self.seed = thinking, augment, seed

  def __len__(self) -> int:
    return len(self.pairs)

  def _inputs(self, i: int):
    pair = self.pairs[i]
    rng = np.random.default_rng((self.seed, i)) if self.augment else None
    try:
      prompt = with_tile(self.processor(pair.messages, pair.images, thinking=self.thinking, augment=rng))
      return prompt, [answer_tokens(self.processor, text) for text in (pair.chosen, pair.rejected)]
    except ValueError as error:
      place = self.pairs.where(i) if isinstance(self.pairs, Rows) else f'pair {i}'
      raise ValueError(f'{place}: {error}') from error

  def need(self, i: int) -> np.ndarray:
    """int32 [3]: tokens of the prompt, tokens of the longer answer, tiles."""
    prompt, answers = self._inputs(i)
    return np.array([len(prompt.tokens), max(map(len, answers)), len(prompt.pixels)], np.int32)

  def row(self, i: int, room: Sizes) -> dict[str, np.ndarray]:
    """The pair in a room that holds it: tokens and positions [P], said and mask [2, N], pixels [n, S, S, 3]."""
    prompt, answers = self._inputs(i)
    pad = self.processor.pad_id
    rows = policy.collate([prompt], pad_id=pad, length=room.prompt)
    said, mask = np.full((2, room.answer), pad, np.int32), np.zeros((2, room.answer), bool)
    for k, tokens in enumerate(answers):
      said[k, : len(tokens)], mask[k, : len(tokens)] = tokens, True
    spare = room.tiles - len(prompt.pixels)
    return {
      'tokens': rows.tokens[0],
      'positions': rows.positions[0],
      'said': said,
      'mask': mask,
      'pixels': np.pad(rows.pixels[0], ((0, spare), (0, 0), (0, 0), (0, 0))),
    }


class Chain:
  """Several sources, one after the other."""

  def __init__(self, sources: Sequence[Source]):
    self.sources = sources
    self.ends = np.cumsum([len(s) for s in sources])

  def __len__(self) -> int:
    return int(self.ends[-1])

  def which(self, numbers: np.ndarray) -> np.ndarray:
    """int [K]: the source that each of the pairs comes from."""
    return np.searchsorted(self.ends, numbers, side='right')

  def _find(self, i: int) -> tuple[Source, int]:
    part = int(self.which(i))
    return self.sources[part], i - int(self.ends[part] - len(self.sources[part]))

  def need(self, i: int) -> np.ndarray:
    """As of `Source`."""
    source, at = self._find(i)
    return source.need(at)

  def row(self, i: int, room: Sizes) -> dict[str, np.ndarray]:
    """As of `Source`."""
    source, at = self._find(i)
    return source.row(at, room)


class Placed:
  """The pairs of these numbers in one room: a grain source of rows.

  sums: float32 [pairs, 2] of all pairs of the source, their summed log-probabilities under the reference; rows carry
  theirs as `reference`.
  """

  def __init__(self, source: Source, room: Sizes, numbers: np.ndarray, sums: np.ndarray | None = None):
    self.source, self.room, self.numbers, self.sums = source, room, numbers, sums

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    number = int(self.numbers[i])
    row = self.source.row(number, self.room)
    return row if self.sums is None else row | {'reference': self.sums[number]}


def measure(source: Source) -> np.ndarray:
  """int32 [pairs, 3]: what each pair needs, one pass over all."""
  stream = grain.MapDataset.range(len(source)).map(lambda i: source.need(int(i)))
  return np.stack(list(stream.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=64))))


def batch(rows: dict[str, Any]) -> Batch:
  """What the loss takes of stacked rows; all rows of the step, for the weights' sake."""
  prompts = policy.Prompts(rows['tokens'], rows['positions'], rows['pixels'])
  answers = policy.Answers(rows['said'], jnp.zeros(rows['said'].shape, jnp.float32), rows['mask'])
  return Batch(prompts, answers, rows['reference'], losses.token_weight_of(rows['mask']))


@functools.partial(jax.jit, static_argnames=('config', 'dtype'))
def _log_probs(params, config, rows, dtype):
  prompts = policy.Prompts(rows['tokens'], rows['positions'], rows['pixels'])
  answers = policy.Answers(rows['said'], None, rows['mask'])
  logp, _ = policy.log_probs(params_lib.cast(params, dtype), config, prompts, answers)
  return jnp.where(rows['mask'], logp, 0).sum(-1)


def reference(
  params, config, rows: Placed, place: jax.sharding.Mesh, *, at_once: int, dtype: str = 'float32'
) -> np.ndarray:
  """float32 [K, 2]: the answers' summed log-probabilities, `at_once` pairs at a time on the mesh `place`."""
  reading = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(THREADS, 2 * at_once))
  sums = []
  for some in grain.MapDataset.source(rows).to_iter_dataset(reading).batch(at_once):
    n = len(some['tokens'])
    filled = jax.tree.map(
      lambda x: mesh.process_local(np.concatenate([x, np.repeat(x[-1:], at_once - len(x), 0)])), some
    )
    sums.append(mesh.to_local(_log_probs(params, config, mesh.to_global(filled, place), dtype))[:n])
  return np.concatenate(sums)
