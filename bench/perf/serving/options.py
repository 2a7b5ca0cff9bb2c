"""The flags of `bench.perf.serve`; nothing here imports jax, so that processes can be pinned first."""

import dataclasses
from typing import Literal

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Timers:
  """Sizes of the runs with timers in place of compute."""

  vision: float = field(0.04, 'seconds that a tile takes', low=0.001)
  language: float = field(0.04, 'seconds that a response takes', low=0.001)
  requests: int = field(150, 'requests of each run', low=20)
  in_flight: int = field(16, 'requests at a time in the closed loop', low=1)
  load: float = field(0.8, 'of what the coupled server can do, in the open loop', low=0.01, high=0.99)
  seed: int = field(0, 'of the arrivals')


@dataclasses.dataclass(frozen=True)
class Towers:
  """Sizes of the runs with a small InternVL of random weights."""

  requests: int = field(24, 'requests of each measurement', low=4)
  repeats: int = field(3, 'measurements of each stage and of both, in turn; the fastest of each counts', low=1)
  in_flight: int = field(8, 'requests at a time', low=1)
  tiles: int = field(7, 'tiles of an image, its thumbnail not counted', low=1)
  tokens: int = field(16, 'tokens of a response', low=1)
  places: Literal['cores', 'accelerators'] = field('cores', 'what the towers run on')
  numbers: tuple[int, ...] = field((0, 1), 'of two cores or accelerators: that of the vision tower, then the other')
  arms: tuple[str, ...] = field((), 'names of the arms to run; by default all')

  def __post_init__(self):
    if len(self.numbers) != 2:
      raise ValueError(f'numbers={self.numbers}: expected two')
    unknown = [name for name in self.arms if name not in ARMS]
    if unknown:
      raise ValueError(f'arms has {unknown[0]!r}; expected some of {", ".join(ARMS)}')


@dataclasses.dataclass(frozen=True)
class Arm:
  """How one arm serves: where its tiles are encoded, whether it has both places, whether tiles are compressed."""

  coupled: bool
  both: bool = False
  flash: bool = False


ARMS = {
  'coupled_both': Arm(coupled=True, both=True),
  'coupled_one': Arm(coupled=True),
  'decoupled': Arm(coupled=False),
  'decoupled_flash': Arm(coupled=False, flash=True),
}


@dataclasses.dataclass(frozen=True)
class Transformers:
  """Sizes of the comparison with `transformers`."""

  width: int = field(256, 'model width; heads of 64, feed-forward three times the width', low=128)
  layers: int = field(4, 'layers of the model', low=1)
  requests: int = field(64, 'requests of each server', low=1)
  in_flight: int = field(16, 'requests at a time', low=1)
  prompt: int = field(64, 'tokens of the longest prompt; the shortest has a quarter of them', low=4)
  tokens: int = field(64, 'tokens of the longest response; the shortest has a quarter of them', low=4)
