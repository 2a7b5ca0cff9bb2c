"""Starting `jax.distributed` from flags or from the cluster around the process."""

import dataclasses
from typing import Literal

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Distributed:
  """How this process joins the others of its job."""

  distributed: Literal['auto', 'off'] = field(
    'auto', 'start jax.distributed from the flags below or from the cluster around the process, or never'
  )
  coordinator_address: str | None = field(None, 'host:port of process 0')
  num_processes: int | None = field(None, 'number of processes in the job', low=1)
  process_id: int | None = field(None, 'number of this process, from 0', low=0)

  def __post_init__(self):
    given = (self.coordinator_address, self.num_processes, self.process_id)
    if None in given and any(g is not None for g in given):
      raise ValueError('--coordinator_address, --num_processes and --process_id go together')


def start(options: Distributed) -> None:
  """Joins the other processes, if there are any; must come before JAX looks for devices."""
  if options.distributed == 'off':
    return
  from core import mesh

  try:
    mesh.start(options.coordinator_address, options.num_processes, options.process_id)
  except ValueError as error:
    # JAX's answer when nothing around us looks like a cluster; after an explicit address it is a real error.
    if options.coordinator_address or 'coordinator_address' not in str(error):
      raise
