"""Preference pairs as groups of two trajectories, the chosen response and the rejected one."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import grain
import numpy as np

from core.conversations.rows import Rows
from rl.policy import PLAIN, Policy, Reading, Trajectory
from rl.preference.records import Pair

THREADS = 16  # that read images


class PairSource(Protocol):
  """Groups of (chosen, rejected) by number."""

  def __len__(self) -> int: ...
  def __getitem__(self, i: int) -> list[Trajectory]: ...


class Examples:
  """A sequence of pairs, or `Records`, as a policy reads them; a `PairSource`.

  reading: of all prompts. augment: random changes to the images of pair i that depend on (seed, i) alone, so that the
  policy and the reference see the same. Raises ValueError and FileNotFoundError, naming the pair, when it is read.
  """

  def __init__(
    self,
    pairs: Sequence[Pair],
    policy: Policy,
    *,
    reading: Reading = PLAIN,
    augment: bool = False,
    seed: int = 0,
  ):
    self.pairs = pairs
    self.policy = policy
    self.reading = reading
    self.augment = augment
    self.seed = seed

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, i: int) -> list[Trajectory]:
    pair = self.pairs[i]
    reading = self.reading
    if self.augment:
      reading = dataclasses.replace(reading, augment=(self.seed, i))
    try:
      prompt = self.policy.prompt(pair.messages, pair.images, reading)
      said = [self.policy.response(text) for text in (pair.chosen, pair.rejected)]
    except ValueError as error:
      where = self.pairs.where(i) if isinstance(self.pairs, Rows) else f'pair {i}'
      raise ValueError(f'{where}: {error}') from error
    return [Trajectory.given(prompt, tokens) for tokens in said]


def measure(policy: Policy, source: PairSource) -> np.ndarray:
  """int32 [pairs, fields]: the `Slots` that each pair needs, in one pass over all of them."""

  def needed(i: int) -> np.ndarray:
    return np.array(policy.slots([source[int(i)]], 'shared'), np.int32)

  reading = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=64)
  return np.stack(list(grain.MapDataset.range(len(source)).map(needed).to_iter_dataset(reading)))
