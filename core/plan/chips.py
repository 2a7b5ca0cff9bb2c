"""TPU generations and GPUs: public data-sheet figures, and the devices of a topology that this machine does not have.

Figures are per JAX device: a v5p chip is one device of two cores, a v4 or tpu7x chip is two devices.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import tempfile

from core.plan import gpus
from core.plan.gpus import GB


class PlanError(ValueError):
  """The requested plan is impossible; the message names the reason."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """hbm: bytes. flops: dense bfloat16 a second. bandwidth: HBM bytes a second. ici: bytes a second sent, all links.

  Rates are None where no data sheet is known. links: what the connections are called. taken: the share of the memory
  that JAX takes unless it is told otherwise.
  """

  hbm: float
  flops: float | None = None
  bandwidth: float | None = None
  ici: float | None = None
  links: str = 'ICI'
  taken: float = 1.0


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; ICI is half of the bidirectional figure printed there.
CHIPS = {
  'v4': Chip(16 * 2**30, 137.5e12, 614 * GB, 150 * GB),
  'v5e': Chip(16 * 2**30, 197e12, 819 * GB, 200 * GB),
  'v5p': Chip(95 * 2**30, 459e12, 2765 * GB, 600 * GB),
  'v6e': Chip(32 * 2**30, 918e12, 1640 * GB, 400 * GB),
  'tpu7x': Chip(96 * 2**30, 1153.5e12, 3690 * GB, 300 * GB),
}

CPU = 'cpu:1'  # the topology of this machine's CPU, one device
GPU_SHARE = 0.75  # what JAX takes of a GPU's memory without XLA_PYTHON_CLIENT_MEM_FRACTION

_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',  # the host computes nothing; libtpu or the CUDA plugin is a compiler here
  'TF_CPP_MIN_LOG_LEVEL': '3',  # the plugin's notes on a program that does not fit, which the report says
  'TPU_SKIP_MDS_QUERY': '1',  # no metadata server to ask
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # else a second planner stops at the lock file
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
  # libtpu looks up its workers; any well-formed answer avoids a warning.
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
}


def prepare() -> None:
  """Sets the environment variables that the compilers read when they load. Call before any device is used."""
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the shape of a topology such as 'v5p:4x8x8' or 'h200:1'. Raises PlanError if there is no such one."""
  if topology == CPU:
    return Chip(hbm=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')), (1,)
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', topology)
  if not match:
    raise PlanError(f'topology {topology!r}: expected <generation>:<shape>, such as v5p:4x8x8 or h200:1')
  generation, digits = match.groups()
  shape = tuple(map(int, digits.split('x')))
  if generation in gpus.GPUS:
    return _gpu(topology, gpus.GPUS[generation], shape), shape
  if generation not in CHIPS:
    raise PlanError(
      f'topology {topology!r}: no TPU generation or GPU {generation!r}; '
      f'expected one of {", ".join([*CHIPS, *gpus.GPUS])}, or {CPU}'
    )
  return CHIPS[generation], shape


def _gpu(topology: str, gpu: gpus.Gpu, shape: tuple[int, ...]) -> Chip:
  """A GPU's figures. Raises PlanError for a shape other than the number of GPUs in one host."""
  most = gpus.HOST if gpu.nvlink else 1
  if len(shape) != 1 or not 1 <= shape[0] <= most:
    expected = f'a number from 1 to {most}, the GPUs of one host' if most > 1 else '1: it has no NVLink'
    raise PlanError(f'topology {topology!r}: expected {expected}')
  return Chip(gpu.hbm, gpu.flops, gpu.bandwidth, gpu.nvlink, links='NVLink', taken=GPU_SHARE)


def devices(topology: str) -> list:
  """The devices of a topology, to compile for. Raises PlanError if the compiler is absent or refuses the shape."""
  _, shape = parse(topology)
  if topology == CPU:
    import jax

    return jax.devices('cpu')[:1]
  generation = topology.partition(':')[0]
  gpu = gpus.GPUS.get(generation)
  _check_installed(gpu)
  prepare()
  from jax.errors import JaxRuntimeError
  from jax.experimental import topologies

  try:
    with _quiet():
      if gpu is not None:
        return gpus.devices(gpu, *shape)
      return list(topologies.get_topology_desc(topology, 'tpu').devices)
  except (JaxRuntimeError, NotImplementedError) as error:  # the latter: the plugin could not start
    raise PlanError(f'topology {topology!r}: {str(error).splitlines()[0]}') from error


def _check_installed(gpu: gpus.Gpu | None) -> None:
  """Raises PlanError if the compiler for a GPU, or for a TPU if None, is not installed."""
  if gpu is not None and not gpus.is_installed():
    raise PlanError("compiling for a GPU needs JAX's CUDA plugin, which is not installed: pip install -e '.[plan-gpu]'")
  if gpu is None and importlib.util.find_spec('libtpu') is None:
    raise PlanError("compiling for a TPU needs libtpu, which is not installed: pip install -e '.[plan]'")


@contextlib.contextmanager
def _quiet():
  """Holds back what C++ writes to stderr while a compiler loads, and prints it only if loading fails."""
  saved = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(saved, 2)
      os.close(saved)
