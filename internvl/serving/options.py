"""The flags of InternVL's servers."""

import dataclasses
from typing import Literal

from core.launch.devices import Mesh
from core.launch.fields import field
from core.serving.chat import options
from internvl.serving.messages import Limits

VISION_KEY = 'ESPALIER_VISION_KEY'


@dataclasses.dataclass(frozen=True)
class Options(options.Options):
  """The flags of the server."""

  vision: str = field(
    'coupled',
    'where tiles are encoded: coupled, by the thread of the language model; separate, by one of their own; or HOST:PORT'
    f' of python -m internvl.serve_vision, which knows the key of {VISION_KEY}',
  )
  vision_mesh: Mesh = field(Mesh(), 'axes of the devices of a separate vision tower')
  vision_device: int = field(0, 'number of the first device of a separate vision tower', low=0)
  limits: Limits = field(Limits(), 'what one request may show')

  def __post_init__(self):
    super().__post_init__()
    if self.vision not in ('coupled', 'separate'):
      from internvl.serving.remote import parse_address

      try:
        parse_address(self.vision)
      except ValueError as error:
        raise ValueError(f'--vision={error}, coupled or separate') from error


@dataclasses.dataclass(frozen=True)
class VisionOptions:
  """The flags of a vision service."""

  model: str | None = field(None, 'folder of a checkpoint')
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights, arithmetic and features; by default bfloat16, and float32 on a CPU'
  )
  mesh: Mesh = field(Mesh(), 'axes of the devices')
  host: str = field('127.0.0.1', 'address to serve on')
  port: int = field(8771, 'port to serve on; 0 picks one', low=0, high=65535)
  pending: int = field(64, 'tiles of a connection that are read and not answered yet', low=1)

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model is needed')
