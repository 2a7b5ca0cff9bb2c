"""A policy's engine, and the weights it samples from."""

from typing import Any

import jax

from core import mesh
from core import params as params_lib
from core.engine import EngineSize
from rl.policy import Policy


class Sampler:
  """An engine for the policy in `dtype` on the devices of `home`; `update` gives it new weights.

  The processes of `home.mesh` share the engine: they make the same calls, and get the same samples.
  """

  def __init__(self, policy: Policy, weights: Any, size: EngineSize, home: mesh.Share, dtype: str = 'float32'):
    self.policy = policy
    self.home = home
    self._dtype = dtype
    self._places = mesh.shardings(policy.spec(), home.whole)
    self.capacity = size.pages * size.page_size  # tokens of its cache
    self.engine = policy.engine(params_lib.cast(weights, dtype), size, home)

  @property
  def longest(self) -> int:
    """Tokens that a prompt and its response may have together: of the model's context and of the engine's cache."""
    return min(self.policy.max_length, self.capacity)

  def copy(self, weights: Any) -> Any:
    """A copy of the weights on the engine's devices; safe even if the originals are donated."""
    return jax.device_put(params_lib.cast(weights, self._dtype), self._places)

  def update(self, weights: Any) -> None:
    """Samples from these weights from now on."""
    self.engine.update(params_lib.cast(weights, self._dtype))
