"""What a planner must know of a program: the step to compile, and the parts its work is counted from."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Part:
  """A tower of a model, for the formulas.

  spec: its tree of `core.params.Spec`. tokens: those it reads in one step, over all devices.
  attention: FLOPs of QKᵀ and PV in one forward pass over them, as the kernel computes them. active: the share of
  the experts a token visits. trained: False when frozen (forward only). replicas: on how many devices the same
  tokens are computed with different slices of the weights (the tensor axis).
  """

  name: str
  spec: Any
  tokens: int
  attention: float
  active: float = 1.0
  trained: bool = True


@dataclasses.dataclass(frozen=True)
class Program:
  """step: a jitted function; args: its abstract arguments, leaves carrying shardings.

  kinds: name → the part of `args` to be reported under that name ('weights', 'optimiser', 'batch', …).
  parts: for the formulas. micro_batches: gradient accumulation. remat: the policy of `core.remat`.
  state_bytes: bytes of weights, moments and the like that one update reads and writes, a parameter.
  notes: sentences worth printing with the plan.
  """

  step: Callable
  args: tuple
  kinds: dict[str, Any]
  parts: tuple[Part, ...]
  micro_batches: int = 1
  remat: str = 'none'
  notes: tuple[str, ...] = ()
