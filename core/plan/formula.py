"""Work of a training step by formula, from each weight's `Spec`: FLOPs, HBM bytes, bytes between devices.

Nothing here is read from the compiler, whose own cost figures count a loop's body once and a kernel by hearsay.
All figures are low estimates: products and the traffic of their operands, with everything elementwise fused away;
and every weight is taken to be trained.
"""

import dataclasses
import math

import jax

from core import params
from core.mesh import RULES, sharding
from core.plan.chips import Chip
from core.plan.program import Part, Program

COMPUTE_BYTES = 2  # bfloat16
GRADIENT_BYTES = 4  # float32
# The two products of attention again for the scores, and four for dQ, dK, dV and dP; dK, dV and dQ are two kernels,
# each of which makes the scores and dP anew: 7 products where the forward pass has 2.
ATTENTION_BACKWARD = 3.5


@dataclasses.dataclass(frozen=True)
class Work:
  """Of one step. FLOPs over all devices; bytes of one device, by cause.

  parameters: all; active: those a token meets. model_flops: thrice the forward pass. flops: all that is computed,
  recomputation included.
  """

  parameters: int
  active: int
  model_flops: float
  flops: float
  hbm: dict[str, float]
  ici: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of one step that each limit allows at best, were it alone."""

  compute: float
  hbm: float
  ici: float

  @property
  def binds(self) -> str:
    return max(('compute', 'hbm', 'ici'), key=lambda name: getattr(self, name))

  @property
  def seconds(self) -> float:
    return max(self.compute, self.hbm, self.ici)


@dataclasses.dataclass(frozen=True)
class _Weight:
  """One matrix of a layer, its copies (layers; the share of experts a token meets) and what one device has of it."""

  copies: float
  inputs: int
  outputs: int
  local_inputs: float  # inputs and outputs after the tensor axis
  local_outputs: float
  needed: float  # elements a device multiplies with, all layers and experts
  held: float  # elements a device stores
  heads: bool
  scatters: bool  # its outputs go back to the devices of the expert axis

  @property
  def active(self) -> float:
    return self.copies * self.inputs * self.outputs


def weights(part: Part, mesh) -> list[_Weight]:
  """What multiplies in a part: vectors, biases and looked-up tables do not."""
  found = []
  for path, s in jax.tree.leaves_with_path(part.spec):
    cut = s.stack + s.inputs
    if not s.inputs or cut >= len(s.shape) or params.path_name(path).endswith('bias'):
      continue
    split = lambda axes: mesh.shape['model'] if part.tensor and any(RULES.get(a) == 'model' for a in axes) else 1
    experts = 'experts' in s.axes
    inputs, outputs = math.prod(s.shape[s.stack : cut]), math.prod(s.shape[cut:])
    in_split, out_split = split(s.axes[s.stack : cut]), split(s.axes[cut:])
    needed = math.prod(s.shape) / in_split / out_split / (mesh.shape['expert'] if experts else 1)
    found.append(
      _Weight(
        math.prod(s.shape[: s.stack]) * (part.active if experts else 1),
        inputs,
        outputs,
        inputs / in_split,
        outputs / out_split,
        needed,
        math.prod(sharding(s.shape, s.axes, mesh).shard_shape(s.shape)),
        bool({'heads', 'kv_heads'} & set(s.axes)),
        experts and s.axes[-1] == 'expert_embed',
      )
    )
  return found


def work(program: Program, mesh, state_bytes: int) -> Work:
  """The work of a step on `mesh`; state_bytes: of weights and optimiser state on one device."""
  total = sum(params.count(part.spec) for part in program.parts)
  idle = sum(
    (1 - part.active) * math.prod(s.shape)
    for part in program.parts
    for s in jax.tree.leaves(part.spec)
    if 'experts' in s.axes
  )
  model, executed = flops(program, mesh)
  return Work(total, round(total - idle), model, executed, hbm(program, mesh, state_bytes), ici(program, mesh))


def roofline(work: Work, chip: Chip, devices: int) -> Roofline:
  """Each limit by itself, at the data sheet's peak; ICI over all links of a chip at once."""
  return Roofline(
    work.flops / devices / chip.flops, sum(work.hbm.values()) / chip.bandwidth, sum(work.ici.values()) / chip.ici
  )


def flops(program: Program, mesh) -> tuple[float, float]:
  """(model FLOPs, computed FLOPs) of the step over all devices."""
  model = computed = 0.0
  for part in program.parts:
    products = 2 * part.tokens * sum(w.active for w in weights(part, mesh)) + part.table
    model += 3 * (products + part.attention)
    computed += products * (3 + (program.remat == 'full'))
    computed += part.attention * (1 + ATTENTION_BACKWARD + (program.remat != 'none'))
  return model, computed


def _passes(program: Program) -> int:
  """How often the weights are walked through: forward, backward, and forward again."""
  return 2 + (program.remat == 'full')


def _tokens(part: Part, mesh) -> float:
  """Tokens of a part on one device."""
  return part.tokens / math.prod(n for axis, n in mesh.shape.items() if axis != 'model' or not part.tensor)


def hbm(program: Program, mesh, state_bytes: int) -> dict[str, float]:
  """Bytes that one device reads and writes: the update, the gathered weights, the operands of the products."""
  update, gathered, activations = 2.0 * state_bytes, 0.0, 0.0
  for part in program.parts:
    for w in weights(part, mesh):
      # Written and read in every pass; so is the gradient, once.
      gathered += program.micro_batches * 2 * (_passes(program) + 1) * COMPUTE_BYTES * w.needed
      update += 2 * GRADIENT_BYTES * w.held
      # The backward pass multiplies twice.
      moved = w.copies * (w.local_inputs + w.local_outputs) * _tokens(part, mesh)
      activations += (_passes(program) + 1) * COMPUTE_BYTES * moved
  return {'update of the state': update, 'gathered weights, gradients': gathered, 'activations': activations}


def ici(program: Program, mesh) -> dict[str, float]:
  """Bytes that one device sends, with ring algorithms."""
  fsdp = tensor = expert = sequence = 0.0
  size = mesh.shape
  for part in program.parts:
    for w in weights(part, mesh):
      # Gathered forward and backward, gradients scattered.
      fsdp += 3 * program.micro_batches * COMPUTE_BYTES * (w.needed - w.held)
      once = COMPUTE_BYTES * _passes(program) * _tokens(part, mesh) * w.copies
      if w.local_inputs != w.inputs:  # partial sums; the backward pass has as many for the inputs
        tensor += 2 * (size['model'] - 1) / size['model'] * once * w.outputs
      if w.heads and part.tensor:  # whole length, some of the heads
        sequence += (size['seq'] - 1) / size['seq'] * once * min(w.local_inputs, w.local_outputs)
      if w.scatters:  # tokens gathered, sums scattered back, once a layer whatever a token's number of experts
        layers = w.copies / (part.active * _experts(part))
        expert += 2 * (size['expert'] - 1) * once / w.copies * layers * w.outputs
  causes = {'weights and gradients': fsdp, 'tensor axis': tensor, 'expert axis': expert, 'sequence axis': sequence}
  return {cause: sent for cause, sent in causes.items() if sent}


def _experts(part: Part) -> int:
  return next(s.shape[s.axes.index('experts')] for s in jax.tree.leaves(part.spec) if 'experts' in s.axes)
