"""The flags that every server of a language model has."""

import dataclasses
from typing import Literal

from core.engine.size import EngineSize
from core.launch.devices import Mesh
from core.launch.fields import field

TOKEN = 'ESPALIER_API_KEY'
SIZE = EngineSize(slots=32, pages=2048, page_size=16, segment=4, chunk=256)


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a checkpoint')
  name: str = field('', "the model's name for clients; by default that of its folder")
  engine: EngineSize = field(SIZE, 'sizes of the engine')
  queue: int = field(256, 'samples that may wait for a slot; further ones get 429', low=0)
  seconds: float = field(600.0, 'that a request may take', low=0.01)
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights and arithmetic; by default bfloat16, and float32 on a CPU'
  )
  mesh: Mesh = field(Mesh(), 'axes of the devices')
  host: str = field('127.0.0.1', 'address to serve on')
  port: int = field(8000, 'port to serve on; 0 picks one', low=0, high=65535)
  token: Literal['required', 'none'] = field(
    'required', f'whether requests need the key of {TOKEN}; none: not, on loopback only'
  )
  names: tuple[str, ...] = field((), 'further Host names to answer to, such as that of a proxy in front')
  connections: int = field(1024, 'connections at once', low=1)
  body: int = field(64 << 20, 'bytes of a request', low=1)
  drain: float = field(30.0, 'seconds that running requests may take after SIGTERM', low=0.01)

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model is needed')
