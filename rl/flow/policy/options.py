"""How paths are sampled and which of their steps are trained."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from core.launch.fields import field
from rl.flow import sampling
from rl.flow.sampling import Noise


@dataclasses.dataclass(frozen=True)
class PathOptions:
  """Sampling of a flow policy, in training and evaluation."""

  steps: int = field(25, 'denoising steps of an image')
  shift: float = field(3.0, 'shift of the noise levels towards noise')
  rounded: bool = field(True, 'the network is given times rounded down to thousandths, as the published trainer does')
  noise: Noise = field(Noise(), 'of stochastic steps')
  fraction: float = field(0.6, 'share of the steps of an image that are trained, drawn for each image')
  window: int = field(0, 'stochastic and trained steps of a mixed sampler, all others deterministic; 0: all stochastic')
  window_every: int = field(25, 'rollouts after which the window moves by one step')
  shared_noise: bool = field(True, 'all images of a group start from the same noise')
  guidance: float = field(1.0, 'classifier-free guidance scale, or the scale that the network is given; 1: none')
  normalised: bool = field(False, 'ratios without bias and steps of equal weight (GRPO-Guard)')

  def __post_init__(self):
    sampling.shifted(self.steps, self.shift)
    if not 0 < self.fraction <= 1 or self.count < 1:
      raise ValueError(f'fraction={self.fraction}: expected a share of {self.steps - 1} steps that is 1 step or more')
    if self.window:
      sampling.window(self.steps, self.window, 0)
    if self.window_every < 1 or not 0 < self.guidance < float('inf'):
      raise ValueError(f'window_every={self.window_every}, guidance={self.guidance}: expected 1 or more, and above 0')

  @property
  def schedule(self) -> sampling.Schedule:
    """The noise levels."""
    return sampling.shifted(self.steps, self.shift, rounded=self.rounded)

  @property
  def count(self) -> int:
    """M: how many steps of an image are trained. The last step never is."""
    return self.window or int((self.steps - 1) * self.fraction)

  def stochastic(self, rollout: int) -> np.ndarray:
    """bool [T]: which steps of a rollout add noise."""
    if not self.window:
      return np.ones(self.steps, bool)
    return sampling.window(self.steps, self.window, rollout, every=self.window_every)

  def trained(self, rollout: int, seeds: Sequence[int]) -> np.ndarray:
    """int32 [R, M]: the trained steps of each image, in order; a function of the rollout and the image's seed."""
    if self.window:
      inside = np.flatnonzero(self.stochastic(rollout))
      return np.tile(np.int32(inside), (len(seeds), 1))
    rngs = [np.random.default_rng((rollout, seed)) for seed in seeds]
    chosen = [rng.permutation(self.steps - 1)[: self.count] for rng in rngs]
    return np.sort(np.int32(chosen), 1)

  def weights(self, picks: np.ndarray) -> np.ndarray | None:
    """float32 [R, M]: 1/|dσ| of each trained step, what its loss is multiplied by with normalised ratios; else None."""
    if not self.normalised:
      return None
    lengths = -np.diff(self.schedule.levels)
    return 1 / lengths[picks]
