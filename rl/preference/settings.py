"""What may be chosen of the preference phases."""

import dataclasses

from core.launch.fields import field
from core.training.optim import Optim
from rl.losses import Mpo
from rl.preference.buckets import Limits


@dataclasses.dataclass(frozen=True)
class MpoPhase:
  """Mixed preference optimisation; defaults are those of InternVL3.5's release, one epoch of MMPR-v1.2 (200K pairs)."""

  steps: int = field(800, 'updates')
  batch: int = field(256, 'pairs an update')
  accumulate: int = field(1, 'micro-batches an update; each moves the reward shift')
  seed: int = field(0, 'of the order of pairs')
  limits: Limits = field(Limits(), 'the largest pair; larger ones are left out')
  buckets: int = field(12, 'padded sizes, each a compiled program; more of them waste less on padding')
  thinking: bool = field(False, "prompts carry the policy's system text for reasoning")
  loss: Mpo = field(Mpo(), 'weights of the three terms')
  optim: Optim = field(Optim(lr=2e-7, schedule='cosine', warmup_steps=24, weight_decay=0.05), 'optimiser')
  reference_batch: int = field(32, 'pairs at once while the reference is computed')
  save_every: int = field(100, 'steps between checkpoints')

  def __post_init__(self):
    for name in ('steps', 'batch', 'accumulate', 'buckets', 'reference_batch', 'save_every'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if self.batch % self.accumulate:
      raise ValueError(f'accumulate={self.accumulate} does not divide batch={self.batch}')


@dataclasses.dataclass(frozen=True)
class Offline:
  """The phase before reward: pairs out of the policy's own samples, MPO on them, and the choice of online queries."""

  queries: int = field(0, 'queries sampled for pairs, and again after MPO for their accuracy; 0: no offline phase')
  samples: int = field(16, 'samples of each')
  temperature: float = field(1.0, 'of that sampling')
  most: int = field(15, 'pairs of a query, at most')
  low: float = field(0.2, 'lowest accuracy of a query that the online phase draws')
  high: float = field(0.8, 'highest accuracy of such a query')
  phase: MpoPhase = field(MpoPhase(), 'the MPO run')

  def __post_init__(self):
    if self.queries < 0 or self.samples < 2 or self.most < 1:
      raise ValueError(f'queries={self.queries}, samples={self.samples}, most={self.most}: expected 0, 2, 1 or more')
    if not 0 <= self.low <= self.high <= 1:
      raise ValueError(f'low={self.low}, high={self.high}: expected 0 <= low <= high <= 1')
