"""TPU generations: public data-sheet figures, and the devices of a topology that this machine does not have; its CPU.

Figures are per JAX device: a v5p chip is one device of two cores, a v4 or tpu7x chip is two devices.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import tempfile

GB = 1e9


class PlanError(ValueError):
  """The requested plan is impossible; the message names the reason."""


@dataclasses.dataclass(frozen=True)
class Chip:
  """hbm: bytes. flops: dense bfloat16 a second. bandwidth: HBM bytes a second. ici: bytes a second sent, all links.

  Rates are None where no data sheet is known.
  """

  hbm: float
  flops: float | None = None
  bandwidth: float | None = None
  ici: float | None = None


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; ICI is half of the bidirectional figure printed there.
CHIPS = {
  'v4': Chip(16 * 2**30, 137.5e12, 614 * GB, 150 * GB),
  'v5e': Chip(16 * 2**30, 197e12, 819 * GB, 200 * GB),
  'v5p': Chip(95 * 2**30, 459e12, 2765 * GB, 600 * GB),
  'v6e': Chip(32 * 2**30, 918e12, 1640 * GB, 400 * GB),
  'tpu7x': Chip(96 * 2**30, 1153.5e12, 3690 * GB, 300 * GB),
}

CPU = 'cpu:1'  # the topology of this machine's CPU, one device

_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',  # the host computes nothing; libtpu is a compiler here
  'TPU_SKIP_MDS_QUERY': '1',  # no metadata server to ask
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # else a second planner stops at the lock file
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
  # libtpu looks up its workers; any well-formed answer avoids a warning.
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
}


def prepare() -> None:
  """Sets the environment variables that libtpu reads when it loads. Call before any device is used."""
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the shape of a topology such as 'v5p:4x8x8'. Raises PlanError for an unknown generation or shape."""
  if topology == CPU:
    return Chip(hbm=os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')), (1,)
  match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', topology)
  if not match:
    raise PlanError(f'topology {topology!r}: expected <generation>:<shape>, such as v5p:4x8x8')
  generation, shape = match.groups()
  if generation not in CHIPS:
    raise PlanError(
      f'topology {topology!r}: no TPU generation {generation!r}; expected one of {", ".join(CHIPS)}, or {CPU}'
    )
  return CHIPS[generation], tuple(map(int, shape.split('x')))


def devices(topology: str) -> list:
  """The devices of a topology, to compile for. Raises PlanError if libtpu is absent or refuses the shape."""
  parse(topology)
  if topology == CPU:
    import jax

    return jax.devices('cpu')[:1]
  if importlib.util.find_spec('libtpu') is None:
    raise PlanError("compiling for a TPU needs libtpu, which is not installed: pip install -e '.[plan]'")
  prepare()
  from jax.errors import JaxRuntimeError
  from jax.experimental import topologies

  try:
    with _quiet():
      description = topologies.get_topology_desc(topology, 'tpu')
      return list(description.devices)
  except JaxRuntimeError as error:
    raise PlanError(f'topology {topology!r}: {str(error).splitlines()[0]}') from error


@contextlib.contextmanager
def _quiet():
  """Holds back what C++ writes to stderr while libtpu loads, and prints it only if loading fails."""
  saved = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(saved, 2)
      os.close(saved)
