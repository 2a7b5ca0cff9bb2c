"""Work of a training step by formula, from each weight's `Spec`: FLOPs, HBM bytes, bytes between devices.

No figure comes from the compiler, whose cost analysis counts a loop's body once and guesses the cost of kernels. All
figures are low estimates: matrix products and the traffic of their operands, with everything elementwise fused away.
Every weight is assumed to be trained.
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
# The forward pass has 2 products, the backward pass 7: two kernels (one for dK and dV, one for dQ) each recompute the
# scores and dP, and dQ, dK and dV take one product each.
ATTENTION_BACKWARD = 3.5


@dataclasses.dataclass(frozen=True)
class Work:
  """The work of one step: FLOPs over all devices, bytes of one device by cause.

  parameters: all; active: those that one token uses. model_flops: three times the forward pass. flops: everything
  computed, recomputation included.
  """

  parameters: int
  active: int
  model_flops: float
  flops: float
  hbm: dict[str, float]
  ici: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Lower bounds on the seconds of one step, from each limit alone."""

  compute: float
  hbm: float
  ici: float

  @property
  def binds(self) -> str:
    limits = dataclasses.asdict(self)
    return max(limits, key=limits.get)

  @property
  def seconds(self) -> float:
    return max(self.compute, self.hbm, self.ici)


@dataclasses.dataclass(frozen=True)
class _Weight:
  """One matrix of a layer, its copies (layers; the share of experts that a token uses) and one device's part of it."""

  copies: float
  inputs: int
  outputs: int
  local_inputs: float  # inputs and outputs on one device of the tensor axis
  local_outputs: float
  needed: float  # elements that a device multiplies with, over all layers and experts
  held: float  # elements that a device stores
  heads: bool
  scatters: bool  # its outputs are reduce-scattered over the expert axis

  @property
  def active(self) -> float:
    return self.copies * self.inputs * self.outputs


def weights(part: Part, mesh) -> list[_Weight]:
  """The matrices of a part; its vectors, biases and looked-up tables multiply nothing."""
  matrices = []
  for path, s in jax.tree.leaves_with_path(part.spec):
    is_matrix = s.inputs > 0 and s.stack + s.inputs < len(s.shape)
    if is_matrix and not params.path_name(path).endswith('bias'):
      matrices.append(_weight(s, part, mesh))
  return matrices


def _weight(s: params.Spec, part: Part, mesh) -> _Weight:
  """One matrix of `part` as the formulas count it."""

  def shards(axes) -> int:
    is_split = part.tensor and any(RULES.get(axis) == 'model' for axis in axes)
    if is_split:
      return mesh.shape['model']
    return 1

  cut = s.stack + s.inputs
  is_expert = 'experts' in s.axes
  inputs = math.prod(s.shape[s.stack : cut])
  outputs = math.prod(s.shape[cut:])
  in_shards = shards(s.axes[s.stack : cut])
  out_shards = shards(s.axes[cut:])
  expert_shards = mesh.shape['expert'] if is_expert else 1
  used = part.active if is_expert else 1
  shard = sharding(s.shape, s.axes, mesh).shard_shape(s.shape)
  return _Weight(
    copies=math.prod(s.shape[: s.stack]) * used,
    inputs=inputs,
    outputs=outputs,
    local_inputs=inputs / in_shards,
    local_outputs=outputs / out_shards,
    needed=math.prod(s.shape) / in_shards / out_shards / expert_shards,
    held=math.prod(shard),
    heads=bool({'heads', 'kv_heads'} & set(s.axes)),
    scatters=is_expert and s.axes[-1] == 'expert_embed',
  )


def work(program: Program, mesh, state_bytes: int) -> Work:
  """The work of a step on `mesh`; state_bytes: of weights and optimiser state on one device."""
  total = sum(params.count(part.spec) for part in program.parts)
  idle = 0.0
  for part in program.parts:
    experts = [s for s in jax.tree.leaves(part.spec) if 'experts' in s.axes]
    idle += (1 - part.active) * params.count(experts)
  model, computed = flops(program, mesh)
  return Work(
    parameters=total,
    active=round(total - idle),
    model_flops=model,
    flops=computed,
    hbm=hbm(program, mesh, state_bytes),
    ici=ici(program, mesh),
  )


def roofline(work: Work, chip: Chip, devices: int) -> Roofline:
  """The bound from each limit, at the data sheet's peak; ICI over all links of a chip at once."""
  sent = sum(work.ici.values())
  return Roofline(
    compute=work.flops / devices / chip.flops,
    hbm=sum(work.hbm.values()) / chip.bandwidth,
    ici=sent / chip.ici if sent else 0.0,  # a device by itself may have no links
  )


def flops(program: Program, mesh) -> tuple[float, float]:
  """(model FLOPs, computed FLOPs) of the step over all devices."""
  model = computed = 0.0
  for part in program.parts:
    active = sum(w.active for w in weights(part, mesh))
    products = 2 * part.tokens * active + part.table
    model += 3 * (products + part.attention)
    computed += products * (3 + (program.remat == 'full'))
    computed += part.attention * (1 + ATTENTION_BACKWARD + (program.remat != 'none'))
  return model, computed


def _passes(program: Program) -> int:
  """How many passes read the weights: forward, backward, and forward again with full remat."""
  return 2 + (program.remat == 'full')


def _tokens(part: Part, mesh) -> float:
  """Tokens of a part on one device."""
  shards = dict(mesh.shape)
  if part.tensor:
    del shards['model']  # every device of the tensor axis has all tokens
  return part.tokens / math.prod(shards.values())


def hbm(program: Program, mesh, state_bytes: int) -> dict[str, float]:
  """Bytes that one device reads and writes: the update, the gathered weights, the operands of the products."""
  update = 2.0 * state_bytes
  gathered = 0.0
  activations = 0.0
  for part in program.parts:
    for w in weights(part, mesh):
      # Weights are written and read in every pass, the gradient once.
      gathered += program.micro_batches * 2 * (_passes(program) + 1) * COMPUTE_BYTES * w.needed
      update += 2 * GRADIENT_BYTES * w.held
      # The backward pass has two products for each one of the forward pass.
      moved = w.copies * (w.local_inputs + w.local_outputs) * _tokens(part, mesh)
      activations += (_passes(program) + 1) * COMPUTE_BYTES * moved
  return {'update of the state': update, 'gathered weights, gradients': gathered, 'activations': activations}


def ici(program: Program, mesh) -> dict[str, float]:
  """Bytes that one device sends, with ring algorithms."""
  fsdp = tensor = expert = sequence = 0.0
  size = mesh.shape
  for part in program.parts:
    for w in weights(part, mesh):
      # Gathered in the forward and the backward pass; gradients are reduce-scattered.
      fsdp += 3 * program.micro_batches * COMPUTE_BYTES * (w.needed - w.held)
      once = COMPUTE_BYTES * _passes(program) * _tokens(part, mesh) * w.copies
      if w.local_inputs != w.inputs:  # partial sums of the outputs, and in the backward pass of the inputs
        tensor += 2 * (size['model'] - 1) / size['model'] * once * w.outputs
      if w.heads and part.tensor:  # attention exchanges a slice of the length for a slice of the heads
        sequence += (size['seq'] - 1) / size['seq'] * once * min(w.local_inputs, w.local_outputs)
      if w.scatters:  # tokens gathered and sums scattered once a layer, independent of the experts a token uses
        layers = w.copies / (part.active * _experts(part))
        expert += 2 * (size['expert'] - 1) * once / w.copies * layers * w.outputs
  causes = {'weights and gradients': fsdp, 'tensor axis': tensor, 'expert axis': expert, 'sequence axis': sequence}
  return {cause: sent for cause, sent in causes.items() if sent}


def _experts(part: Part) -> int:
  """The number of experts of a part that has them."""
  spec = next(s for s in jax.tree.leaves(part.spec) if 'experts' in s.axes)
  return spec.shape[spec.axes.index('experts')]
