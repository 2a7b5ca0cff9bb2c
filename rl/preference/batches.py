"""Batches of preference pairs: a prompt, computed once, and its two responses.

B pairs   N response slots
"""

from typing import Any

import jax
import numpy as np
from flax import struct

from rl import losses
from rl.policy import Policy, layouts
from rl.preference.buckets import Bucket
from rl.preference.examples import PairSource


@struct.dataclass
class Batch:
  """Pairs for a step of `rl.losses.mpo`."""

  inputs: Any  # of the policy's forward pass
  mask: Any  # bool [B, 2, N], tokens of the responses
  reference: Any  # float32 [B, 2], summed log-probabilities under the reference
  token_weight: Any  # float32 [B], see `rl.losses.token_weight_of`


class BucketRows:
  """The pairs of one bucket as padded arrays: a grain source of rows {'inputs', 'mask'}.

  sums: float32 [pairs, 2] of all pairs of the source, their summed log-probabilities under the reference; rows then
  have their own as 'reference'.
  """

  def __init__(self, policy: Policy, source: PairSource, bucket: Bucket, sums: np.ndarray | None = None):
    self.policy = policy
    self.source = source
    self.bucket = bucket
    self.sums = sums

  def __len__(self) -> int:
    return len(self.bucket.numbers)

  def __getitem__(self, i: int) -> dict[str, Any]:
    number = int(self.bucket.numbers[i])
    group = self.source[number]
    slots = self.bucket.slots
    inputs = self.policy.inputs([group], 'shared', slots)
    mask = layouts.spread([group], lambda t: t.mask, samples=2, length=slots.response, dtype=bool)
    row = jax.tree.map(lambda x: x[0], {'inputs': inputs, 'mask': mask})
    if self.sums is None:
      return row
    return row | {'reference': self.sums[number]}


def batch(rows: dict[str, Any]) -> Batch:
  """Stacked rows of a whole step as the loss takes them; token weights are those of the whole step."""
  return Batch(**rows, token_weight=losses.token_weight_of(rows['mask']))
