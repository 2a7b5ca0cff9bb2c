"""The devices of a program as its flags."""

import dataclasses
import math

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices of the model."""

  data: int = field(1, 'devices to spread weights over', low=1)
  expert: int = field(1, 'devices to spread experts over', low=1)
  model: int = field(1, 'devices to split matrices over', low=1)


def mesh_of(shape: Mesh, first: int = 0):
  """The mesh of a program's flags, over the devices from number `first` on."""
  import jax

  from core import mesh

  sizes = dataclasses.asdict(shape)
  return mesh.make(**sizes, devices=jax.devices()[first : first + math.prod(sizes.values())])
