"""Preference pairs: as files, out of a policy's own samples, and as batches for `rl.losses.mpo`."""

from rl.preference.batches import Batch, Chain, Examples, Placed, batch, measure, reference
from rl.preference.build import Scored, continuation_pairs, correctness_pairs
from rl.preference.records import Pair, Records, write
from rl.preference.rooms import Group, Sizes, divide

__all__ = [
  'Batch',
  'Chain',
  'Examples',
  'Group',
  'Pair',
  'Placed',
  'Records',
  'Scored',
  'Sizes',
  'batch',
  'continuation_pairs',
  'correctness_pairs',
  'divide',
  'measure',
  'reference',
  'write',
]
