"""Preference pairs: as files, out of a policy's own samples, as batches, and the phases that train on them."""

from rl.preference.batches import Batch, BucketRows, batch
from rl.preference.buckets import Bucket, Limits, divide
from rl.preference.build import JudgedSample, continuation_pairs, correctness_pairs
from rl.preference.examples import Examples, measure
from rl.preference.phase import mpo
from rl.preference.records import Pair, Records, write
from rl.preference.reference import reference_sums
from rl.preference.settings import MpoPhase, Offline

__all__ = [
  'Batch',
  'Bucket',
  'BucketRows',
  'Examples',
  'JudgedSample',
  'Limits',
  'MpoPhase',
  'Offline',
  'Pair',
  'Records',
  'batch',
  'continuation_pairs',
  'correctness_pairs',
  'divide',
  'measure',
  'mpo',
  'reference_sums',
  'write',
]
