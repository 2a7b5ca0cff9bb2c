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
  devices, shape, engine = jax.devices(), dataclasses.asdict(config.mesh), dataclasses.asdict(config.engine_mesh)
  if config.prompts % jax.process_count():
    raise ValueError(f'prompts={config.prompts}: expected a multiple of the {jax.process_count()} processes')
  if not config.ahead:
    return mesh.make(**shape, devices=devices), mesh.share(config.engine_processes, **engine)
  if len(devices) % 2 or jax.process_count() > 1:
    raise ValueError(
      f'ahead=True: needs an even number of devices in one process; there are {len(devices)} in {jax.process_count()}'
    )
  half = len(devices) // 2
  home = mesh.make(**engine, devices=devices[half:])
  return mesh.make(**shape, devices=devices[:half]), mesh.Share(home, home)
