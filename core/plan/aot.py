"""Compiling a step for a topology on a machine without one, and the memory that the compiler reports."""

import contextlib
import dataclasses
import math
import re
import resource
import time
from typing import Any

import jax

from core.plan import gpus
from core.plan.program import Program


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each device, from the compiler's `memory_analysis`. `alias`: output that reuses donated arguments."""

  arguments: int
  output: int
  alias: int
  temporary: int
  code: int

  @property
  def total(self) -> int:
    """Bytes that must fit at the same time."""
    return self.arguments + self.output - self.alias + self.temporary + self.code


@dataclasses.dataclass(frozen=True)
class Refused:
  """The compiler's figures for a program that does not fit: bytes used and available, and its message."""

  used: int | None
  available: int | None
  message: str


@dataclasses.dataclass(frozen=True)
class Compiled:
  """Either `memory` or `refused` is None. text: the optimised program. peak_rss: bytes, of this process."""

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
    used = _bytes(pair[1], pair[2])
    available = _bytes(pair[3], pair[4])
    return Refused(used, available, message)
  if 'RESOURCE_EXHAUSTED' in message and 'hbm' in message.lower():
    return Refused(None, None, message)
  return None


def shard_bytes(tree: Any) -> int:
  """Bytes on each device of abstract arrays that carry shardings."""
  total = 0
  for x in jax.tree.leaves(tree):
    shard = x.sharding.shard_shape(x.shape)
    total += math.prod(shard) * x.dtype.itemsize
  return total


def compile_step(program: Program, mesh: jax.sharding.Mesh) -> Compiled:
  """Compiles `program.step` for the devices of `mesh`. An HBM overflow is a result; other errors are raised."""
  start = time.monotonic()
  cpu_start = time.process_time()
  is_gpu = mesh.devices.flat[0].platform == 'gpu'
  with jax.set_mesh(mesh), gpus.traced() if is_gpu else contextlib.nullcontext():
    lowered = program.step.lower(*program.args, **program.static)
  traced = time.monotonic()
  memory = refused = None
  text = ''
  try:
    compiled = lowered.compile(compiler_options=gpus.OPTIONS if is_gpu else None)
    memory = _memory(compiled)
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    refused = overflow(str(error))
    if refused is None:
      raise
  return Compiled(
    memory=memory,
    refused=refused,
    text=text,
    trace_seconds=traced - start,
    compile_seconds=time.monotonic() - traced,
    cpu_seconds=time.process_time() - cpu_start,
    peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  )


def _memory(compiled) -> Memory:
  sizes = compiled.memory_analysis()
  return Memory(
    arguments=sizes.argument_size_in_bytes,
    output=sizes.output_size_in_bytes,
    alias=sizes.alias_size_in_bytes,
    temporary=sizes.temp_size_in_bytes,
    code=sizes.generated_code_size_in_bytes,
  )
