"""The published generations of Vision-SR1, which are different algorithms under one name.

| name | where | signals | trained tokens |
|---|---|---|---|
| c2 | repository, 2026: the default | four components, each normalised, added into one advantage | pass 1 |
| c0 | repository, September 2025; the form of the paper's version 1 | one sum, normalised | pass 1 |
| c1 | branch "embedding-decomposition" | two advantages, two clipped losses added | pass 1 |
| p2 | paper, version 2: its objective, which no released code computes | two advantages | both passes |
"""

import dataclasses
from typing import Literal

from rl.advantages import ADVANTAGES, Advantage, Scores
from rl.rewards import Reward
from rl.rollout.vision_sr1 import rewards

Targets = Literal['none', 'y2', 'y1_description', 'y1_all']
ALPHA = 0.1  # weight of the format; the paper gives none, all released code has this one


@dataclasses.dataclass(frozen=True)
class Generation:
  """One published algorithm.

  weights: of the reward components. advantage: how they are compared. targets: the tokens that a second, separate
  advantage of the description trains: those of the second pass, of the description in the first, of the whole first
  pass, or none. greedy: how the second pass is drawn. passes: 1 for a baseline without a second pass. image_last: see
  `prompts.instructed`. describes: whether the first pass is asked for a description.
  """

  weights: tuple[float, float, float, float]
  advantage: str | Advantage
  targets: Targets = 'none'
  greedy: bool = True
  passes: int = 2
  image_last: bool = False
  describes: bool = True

  @property
  def reward(self) -> Reward:
    """The reward of both passes, for `rl.run`."""
    function = rewards.components if self.describes else rewards.reasoned
    return Reward(function, dict(zip(rewards.NAMES, self.weights, strict=True)), right=rewards.right)


def _both_losses(scores: Scores):
  """The advantage of each channel, times 2: a mean over the tokens of both channels is then the sum of two means."""
  return 2 * ADVANTAGES['grpo_by_kind'].compute(scores)


TWO_LOSSES = Advantage(_both_losses, 'grpo of each kind, times 2')

GENERATIONS = {
  'c2': Generation((1.0, ALPHA, 1.0, ALPHA), 'decoupled'),
  'c0': Generation((0.9, ALPHA, 1.0, 0.0), 'grpo', greedy=False, image_last=True),
  'c1': Generation((1.0, 0.0, 1.0, 0.0), TWO_LOSSES, targets='y1_all'),
  'p2': Generation((1.0, ALPHA, 1.0, ALPHA), 'grpo_by_kind', targets='y2'),
  'no_self_reward': Generation((0.9, ALPHA, 0.0, 0.0), 'grpo', passes=1),
  'vision_r1': Generation((1.0, 0.0, 0.0, 0.0), 'grpo', passes=1, describes=False),
}
