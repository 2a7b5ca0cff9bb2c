"""Which devices update a policy and which sample it."""

import dataclasses

import jax

from core import mesh
from rl.configs import Training


def meshes(config: Training) -> tuple[mesh.Mesh, mesh.Share]:
  """(where the policy is updated, where it is sampled): all devices for both, or with `config.ahead` a half each.

  Every `config.engine_processes` neighbouring processes share one engine on their devices. Raises ValueError when the
  devices do not suffice, or the prompts of a rollout are not a multiple of the processes.
  """
  devices = jax.devices()
  processes = jax.process_count()
  shape = dataclasses.asdict(config.mesh)
  engine = dataclasses.asdict(config.engine_mesh)
  if config.prompts % processes:
    raise ValueError(f'prompts={config.prompts}: expected a multiple of the {processes} processes')
  if not config.ahead:
    return mesh.make(**shape, devices=devices), mesh.share(config.engine_processes, **engine)
  n = len(devices)
  if n % 2 or processes > 1:
    raise ValueError(f'ahead=True: expected an even number of devices in one process, not {n} in {processes}')
  half = n // 2
  home = mesh.make(**engine, devices=devices[half:])
  return mesh.make(**shape, devices=devices[:half]), mesh.Share(home, home)
