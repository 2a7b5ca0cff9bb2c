"""Work of a training step by formula, from each weight's `Spec`: FLOPs, HBM bytes, bytes between devices.

Nothing here is read from the compiler, whose own cost figures count a loop's body once and a kernel by hearsay.
All figures are lower estimates: products and the traffic of their operands, with everything elementwise fused away.
"""

import dataclasses
import math

import jax

from core.mesh import RULES, sharding
from core.params import path_name
from core.plan.program import Part, Program

COMPUTE_BYTES = 2  # bfloat16
GRADIENT_BYTES = 4
# Passes over attention's two products: forward 2; backward 4 for dK, dV and 3 for dQ (two kernels, scores again).
ATTENTION_BACKWARD = 3.5


@dataclasses.dataclass(frozen=True)
class Work:
  """Of one step. FLOPs over all devices; bytes for one device.

  parameters: all. active: those that multiply a token, summed over the towers. model_flops: three times the forward
  pass. flops: with what is computed again. hbm, ici: bytes by cause.
  """

  parameters: int
  active: int
  tokens: int
  model_flops: float
  flops: float
  hbm: dict[str, float]
  ici: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Weight:
  """One matrix (or stack of them): active copies, its sizes on one device, and how it is spread."""

  layers: int  # matrices in the stack, experts not counted
  share: float  # of its stack's experts that one token meets, times their number
  inputs: int
  outputs: int
  local_inputs: float  # after the tensor axis
  local_outputs: float
  needed: float  # elements a device multiplies with, all layers
  held: float  # elements a device stores
  heads: bool
  experts: bool

  @property
  def active(self) -> float:
    return self.layers * self.share * self.inputs * self.outputs


def _weights(part: Part, mesh) -> list[_Weight]:
  found = []
  for path, s in jax.tree.leaves_with_path(part.spec):
    cut = s.stack + s.inputs
    if not s.inputs or cut >= len(s.shape) or path_name(path).endswith('bias'):
      continue  # vectors and looked-up tables multiply nothing
    experts = 'experts' in s.axes
    tensor = lambda axes: part.tensor and any(RULES.get(a) == 'model' for a in axes)
    split = mesh.shape['model']
    inputs, outputs = math.prod(s.shape[s.stack:cut]), math.prod(s.shape[cut:])
    on_inputs, on_outputs = tensor(s.axes[s.stack:cut]), tensor(s.axes[cut:])
    count = s.shape[s.axes.index('experts')] if experts else 1
    whole = math.prod(s.shape)
    needed = whole / (split if on_inputs or on_outputs else 1) / (mesh.shape['expert'] if experts else 1)
    held = math.prod(sharding(s.shape, s.axes, mesh).shard_shape(s.shape))
    found.append(_Weight(math.prod(s.shape[:s.stack]) // count, count * part.active if experts else 1, inputs, outputs,
                         inputs / (split if on_inputs else 1), outputs / (split if on_outputs else 1), needed, held,
                         bool({'heads', 'kv_heads'} & set(s.axes)), experts))
  return found


def forward(part: Part, mesh) -> tuple[float, float]:
  """FLOPs of one forward pass over all devices: (products with weights, products without)."""
  return 2 * part.tokens * sum(w.active for w in _weights(part, mesh)), part.other


def _flops(program: Program, mesh) -> tuple[float, float]:
  """(model FLOPs, executed FLOPs) of the step."""
  again, attention_again = program.remat == 'full', program.remat != 'none'
  model = executed = 0.0
  for part in program.parts:
    products, other = forward(part, mesh)
    backward = 2 if part.trained else 0
    model += (1 + backward) * (products + other)
    executed += products * (1 + backward + (again and part.trained))
    executed += other * (1 + (ATTENTION_BACKWARD + attention_again if part.trained else 0))
  return model, executed


def _hbm(program: Program, mesh, state_bytes: int) -> dict[str, float]:
  """Bytes one device reads and writes."""
  update, gathered, activations = 2.0 * state_bytes, 0.0, 0.0
  for part in program.parts:
    passes = 2 + (program.remat == 'full') if part.trained else 1
    tokens = part.tokens / _spread(part, mesh)
    for w in _weights(part, mesh):
      moved = 2 * passes + (2 if part.trained else 0)  # written and read in each pass; so is the gradient, once
      gathered += program.micro_batches * moved * COMPUTE_BYTES * w.needed
      update += 2 * GRADIENT_BYTES * w.held if part.trained else 0
      products = passes + (1 if part.trained else 0)  # the backward pass multiplies twice
      activations += products * COMPUTE_BYTES * tokens * w.layers * w.share * (w.local_inputs + w.local_outputs)
  return {'optimiser update': update, 'gathered weights and gradients': gathered, 'activations': activations}


def _spread(part: Part, mesh) -> int:
  """Over how many devices a part's tokens are divided."""
  return math.prod(mesh.shape[a] for a in mesh.shape if a != 'model' or not part.tensor)


def _ici(program: Program, mesh) -> dict[str, float]:
  """Bytes one device sends, with ring algorithms."""
  sent = dict.fromkeys(('weights (FSDP)', 'tensor axis', 'expert axis', 'sequence axis'), 0.0)
  size = dict(mesh.shape)
  around = lambda n: (n - 1) / n
  for part in program.parts:
    passes = 2 + (program.remat == 'full') if part.trained else 1
    tokens = part.tokens / _spread(part, mesh)
    for w in _weights(part, mesh):
      times = 3 if part.trained else 1  # gathered forward and backward, gradients scattered
      sent['weights (FSDP)'] += program.micro_batches * times * COMPUTE_BYTES * (w.needed - w.held)
      out = tokens * w.layers * COMPUTE_BYTES * passes
      if w.experts:
        if w.outputs != w.local_outputs or w.inputs == w.local_inputs:
          pass
        sent['expert axis'] += 2 / 3 * out * min(w.inputs, w.outputs) * (size['expert'] - 1) if part.experts_gather(w) else 0
      if w.local_inputs != w.inputs:
        sent['tensor axis'] += 2 * around(size['model']) * out * w.outputs
      if w.heads and part.tensor:
        sent['sequence axis'] += around(size['seq']) * out * max(w.local_inputs, w.local_outputs)
  return {name: value for name, value in sent.items() if value}
