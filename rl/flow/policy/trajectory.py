"""What crosses the seam for a flow policy.

B groups   G images of a group   M trained steps   T text tokens   Y, X, C rows, columns and channels of latents
"""

import dataclasses
from typing import Any

import numpy as np
from flax import struct

from rl.policy.base import Trajectory


@dataclasses.dataclass(frozen=True)
class FlowPrompt:
  """text and its encoding. tokens: int32 [T]. context: float32 [T, D]. pooled: float32 [P]."""

  text: str
  tokens: np.ndarray
  context: np.ndarray
  pooled: np.ndarray


@dataclasses.dataclass
class FlowTrajectory(Trajectory):
  """An image and the steps of its path that are trained. `tokens` are the numbers of those steps, [M].

  states, following: float32 [M, Y, X, C], the latents before and after each. means: float32 [M, Y, X, C], of the
  Gaussians that `following` was drawn from.
  """

  states: np.ndarray = None
  following: np.ndarray = None
  means: np.ndarray = None


@struct.dataclass
class FlowInputs:
  """Steps to score, of groups that share their prompt."""

  context: Any  # float32 [B, T, D]
  pooled: Any  # float32 [B, P]
  index: Any  # int32 [B, G, M], the number of each step
  states: Any  # float32 [B, G, M, Y, X, C]
  following: Any  # float32 [B, G, M, Y, X, C]
  means: Any  # float32 [B, G, M, Y, X, C]
