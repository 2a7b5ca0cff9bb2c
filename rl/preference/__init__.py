"""Preference pairs: as files, out of a policy's own samples, and as batches for `rl.losses.mpo`."""

from rl.preference.batch import Batch, Examples, Referenced, Sizes, TooLong, batch, reference
from rl.preference.build import Scored, continuation_pairs, correctness_pairs
from rl.preference.records import Pair, Records, write

__all__ = ['Batch', 'Examples', 'Pair', 'Records', 'Referenced', 'Scored', 'Sizes', 'TooLong', 'batch',
           'continuation_pairs', 'correctness_pairs', 'reference', 'write']
