"""Compiling a step for a TPU topology on a machine without one, and what the compiler says about memory."""

import dataclasses
import math
import re
import resource
import time
from typing import Any

import jax

from core.plan.program import Program


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes a device, from the compiler's `memory_analysis`. `alias`: output that reuses donated arguments."""

  arguments: int
  output: int
  alias: int
  temporary: int
  code: int

  @property
  def total(self) -> int:
    """What must fit at once."""
    return self.arguments + self.output - self.alias + self.temporary + self.code


@dataclasses.dataclass(frozen=True)
class Refused:
  """The compiler's own figures where a program does not fit: bytes used and available, and its message."""

  used: int | None
  available: int | None
  message: str


@dataclasses.dataclass(frozen=True)
class Compiled:
  """memory is None where `refused` says why. text: the optimised program. peak_rss: bytes, of this process."""

  memory: Memory | None
  refused: Refused | None
  text: str
  trace_seconds: float
  compile_seconds: float
  cpu_seconds: float
  peak_rss: int


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * _UNITS[unit])


def overflow(message: str) -> Refused | None:
  """The figures in XLA's message that a program does not fit in HBM; None for any other message."""
  pair = re.search(r'Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm', message)
  if pair is None:
    pair = re.search(r'([\d.]+)([KMGT]?)B? exceeds (?:the )?available HBM (?:of )?([\d.]+)([KMGT]?)', message)
  if pair is not None:
    return Refused(_bytes(pair[1], pair[2]), _bytes(pair[3], pair[4]), message)
  if 'RESOURCE_EXHAUSTED' in message and 'hbm' in message.lower():
    return Refused(None, None, message)
  return None


def shard_bytes(tree: Any) -> int:
  """Bytes a device of abstract arrays that carry shardings."""
  size = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  return sum(size(x) for x in jax.tree.leaves(tree))


def compile_step(program: Program, mesh: jax.sharding.Mesh) -> Compiled:
  """Compiles `program.step` for the devices of `mesh`. An HBM overflow is a result; other errors are raised."""
  start, cpu = time.monotonic(), time.process_time()
  with jax.set_mesh(mesh):
    lowered = program.step.lower(*program.args, **program.static)
  traced = time.monotonic()
  memory = refused = None
  text = ''
  try:
    compiled = lowered.compile()
    m = compiled.memory_analysis()
    memory = Memory(
      m.argument_size_in_bytes,
      m.output_size_in_bytes,
      m.alias_size_in_bytes,
      m.temp_size_in_bytes,
      m.generated_code_size_in_bytes,
    )
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    refused = overflow(str(error))
    if refused is None:
      raise
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return Compiled(memory, refused, text, traced - start, time.monotonic() - traced, time.process_time() - cpu, peak)
