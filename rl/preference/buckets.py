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
    """Tokens that all of its pairs cost, padding included: each prompt once, and two responses."""
    responses = self.slots.samples * self.slots.response
    each = self.slots.prompt + responses
    return len(self.numbers) * each


class Cut(NamedTuple):
  """The best division of some pairs in two: the tokens that it saves, and the parts, or None if there is no cut."""

  saved: int
  parts: tuple[np.ndarray, np.ndarray] | None


def divide(needs: np.ndarray, limits: Limits, *, most: int, least: int) -> list[Bucket]:
  """At most `most` buckets of at least `least` of the pairs within `limits`, chosen to waste little padding.

  needs: int [pairs, 4], the `Slots` of each pair. Greedy: the bucket and the length whose cut saves most are cut, again
  and again. Fewer than `least` pairs are one bucket. Raises ValueError when no pair is within the limits.
  """
  fits = (needs <= limits.slots).all(1)
  if not fits.any():
    raise ValueError(f'none of {len(needs)} pairs fits {limits}')
  sizes = _stepped(needs, limits)
  parts = [np.flatnonzero(fits)]
  cuts = [_best_cut(sizes, parts[0], least)]
  while len(parts) < most:
    saved = [cut.saved for cut in cuts]
    at = int(np.argmax(saved))
    halves = cuts[at].parts
    if halves is None:
      break
    below, above = halves
    parts[at : at + 1] = below, above
    cuts[at : at + 1] = _best_cut(sizes, below, least), _best_cut(sizes, above, least)
  return [_bucket(sizes, part) for part in parts]


def _stepped(needs: np.ndarray, limits: Limits) -> np.ndarray:
  """The needs with their lengths rounded up to the next step, within the limits."""
  sizes = needs.copy()
  steps = -(-needs[:, :2] // STEP)  # rounded up
  caps = limits.prompt, limits.response
  sizes[:, :2] = np.minimum(steps * STEP, caps)
  return sizes


def _bucket(sizes: np.ndarray, part: np.ndarray) -> Bucket:
  """The smallest bucket that holds these pairs."""
  largest = sizes[part].max(0)
  return Bucket(Slots(*largest.tolist()), part)


def _best_cut(sizes: np.ndarray, part: np.ndarray, least: int) -> Cut:
  """The cut, at one length of prompts or of responses, that saves most; the first of equal ones."""
  best = Cut(0, None)
  whole = _bucket(sizes, part).tokens
  for axis in range(2):
    lengths = sizes[part, axis]
    *cuts, _ = np.unique(lengths)
    for length in cuts:
      is_below = lengths <= length
      below = part[is_below]
      above = part[~is_below]
      if min(len(below), len(above)) < least:
        continue
      rest = _bucket(sizes, below).tokens + _bucket(sizes, above).tokens
      if whole - rest > best.saved:
        best = Cut(whole - rest, (below, above))
  return best


def summary(buckets: Sequence[Bucket]) -> str:
  """One line: how many buckets, what a pair costs, the sizes."""
  pairs = 0
  tokens = 0
  sizes = []
  for bucket in buckets:
    n = len(bucket.numbers)
    slots = bucket.slots
    pairs += n
    tokens += bucket.tokens
    sizes.append(f'{n} of {slots.prompt}+2x{slots.response}')
  listed = ', '.join(sizes)
  return f'{len(buckets)} buckets, {tokens / pairs:.0f} tokens a pair with padding: {listed}'
