"""The planner's view of a program: the step to compile, and the parts from which its work is counted."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Part:
  """A tower of a model, for the formulas.

  spec: its tree of `core.params.Spec`. tokens: those it reads in one step, over all devices.
  attention: FLOPs of QKᵀ and PV of one forward pass over them, as the kernel computes them. table: FLOPs of a forward
  pass with a looked-up table as a matrix (a tied head). active: the share of the experts that a token uses.
  tensor: False if its tokens are also sharded over the tensor axis and its weights gathered from it.
  """

  name: str
  spec: Any
  tokens: int
  attention: float
  table: float = 0.0
  active: float = 1.0
  tensor: bool = True


@dataclasses.dataclass(frozen=True)
class Program:
  """step: a jitted function; args: its abstract arguments, leaves carrying shardings.

  kinds: name → the part of `args` reported under that name ('weights', 'optimiser state', 'batch').
  parts: for the formulas. rows: of the batch, over all devices. micro_batches: gradient accumulation. remat: the
  policy of `core.remat`.

  static: keyword arguments that are no arrays. mesh: the devices that it uses, if not all. For a program that is no
  training step, counted: its `core.plan.formula.Work`; tips: what to change if it does not fit. note: a line to print
  after the mesh.
  """

  step: Callable
  args: tuple
  kinds: dict[str, Any]
  parts: tuple[Part, ...]
  rows: int
  micro_batches: int = 1
  remat: str = 'none'
  static: dict[str, Any] = dataclasses.field(default_factory=dict)
  mesh: Any = None
  counted: Any = None
  tips: tuple[str, ...] = ()
  note: str = ''
