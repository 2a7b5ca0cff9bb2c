"""Buckets for pairs of many lengths: each is a compiled program, and the padding of its pairs is wasted work."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.launch.fields import field
from rl.policy import Slots

STEP = 128  # tokens by which buckets differ, a tile of an accelerator's matrices


@dataclasses.dataclass(frozen=True)
class Limits:
  """The largest pair that is trained on."""

  prompt: int = field(8192, 'tokens of a prompt, images included')
  response: int = field(8192, 'tokens of a response, its stop token included')
  tiles: int = field(12, 'image tiles of a prompt')

  @property
  def slots(self) -> Slots:
    """The limits as padded sizes."""
    return Slots(self.prompt, self.response, samples=2, tiles=self.tiles)


@dataclasses.dataclass(frozen=True)
class Bucket:
  """The pairs, by number, that are padded to the same sizes. numbers: int64 [K], ascending."""

  slots: Slots
  numbers: np.ndarray

  @property
  def tokens(self) -> int:
    """Tokens that all of its pairs cost: each prompt once, and two responses."""
    return len(self.numbers) * (self.slots.prompt + 2 * self.slots.response)


class Cut(NamedTuple):
  """The best division of some pairs in two: the tokens that it saves, and the parts, or None if there is no cut."""

  saved: int
  parts: tuple[np.ndarray, np.ndarray] | None


def divide(needs: np.ndarray, limits: Limits, *, most: int, least: int) -> list[Bucket]:
  """At most `most` buckets of at least `least` of the pairs within `limits`, chosen to waste little padding.

  needs: int [pairs, 4], the `Slots` of each pair. Greedy: the bucket and the length whose cut saves most are cut, again
  and again. Fewer than `least` pairs are one bucket. Raises ValueError when no pair is within the limits.
  """
  numbers = np.flatnonzero((needs <= limits.slots).all(1))
  if not len(numbers):
    raise ValueError(f'none of {len(needs)} pairs fits {limits}')
  stepped = -(-needs[:, :2] // STEP) * STEP
  lengths = np.minimum(stepped, [limits.prompt, limits.response])
  parts, cuts = [numbers], [_best_cut(lengths, numbers, least)]
  while len(parts) < most:
    at = max(range(len(cuts)), key=lambda k: cuts[k].saved)
    halves = cuts[at].parts
    if halves is None:
      break
    parts[at : at + 1] = halves
    cuts[at : at + 1] = [_best_cut(lengths, half, least) for half in halves]
  return [_bucket(needs, lengths, part) for part in parts]


def _bucket(needs: np.ndarray, lengths: np.ndarray, part: np.ndarray) -> Bucket:
  prompt, response = lengths[part].max(0).tolist()
  tiles = int(needs[part, 3].max())
  return Bucket(Slots(prompt, response, samples=2, tiles=tiles), part)


def _cost(lengths: np.ndarray, part: np.ndarray) -> int:
  """Tokens of a bucket of these pairs."""
  prompt, response = lengths[part].max(0).tolist()
  return len(part) * (prompt + 2 * response)


def _best_cut(lengths: np.ndarray, part: np.ndarray, least: int) -> Cut:
  """The cut, at one length of prompts or of responses, that saves most; the first of equal ones."""
  best, whole = Cut(0, None), _cost(lengths, part)
  for axis in range(2):
    values = lengths[part, axis]
    for value in np.unique(values)[:-1]:
      below = values <= value
      halves = part[below], part[~below]
      if min(map(len, halves)) < least:
        continue
      saved = whole - _cost(lengths, halves[0]) - _cost(lengths, halves[1])
      if saved > best.saved:
        best = Cut(saved, halves)
  return best


def summary(buckets: Sequence[Bucket]) -> str:
  """One line: how many buckets, what a pair costs, the sizes."""
  pairs = sum(len(b.numbers) for b in buckets)
  cost = sum(b.tokens for b in buckets) / pairs
  sizes = [f'{len(b.numbers)} of {b.slots.prompt}+2x{b.slots.response}' for b in buckets]
  return f'{len(buckets)} buckets, {cost:.0f} tokens a pair with padding: {", ".join(sizes)}'
