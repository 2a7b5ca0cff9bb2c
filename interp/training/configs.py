"""What training of a small Whisper can be asked for."""

import dataclasses

from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim


@dataclasses.dataclass(frozen=True)
class Config:
  """A Whisper with windows of 3 seconds, on spoken digits."""

  width: int = field(128, 'of the model, a multiple of 8', low=8)
  depth: int = field(2, 'layers of the encoder, and of the decoder', low=1)
  mels: int = field(40, 'mel bands', low=8)
  most: int = field(4, 'digits a clip', low=1, high=5)
  takes: int = field(3, 'recordings of each digit by each voice', low=1)
  held_out: int = field(100, 'clips by voices that are not trained on, for the word error rate', low=1)
  batch: int = field(32, 'clips a step', low=1)
  optim: Optim = Optim(lr=1.5e-3, warmup_steps=100, end=0.05)
  steps: int = field(500, 'updates', low=1)
  mesh: Shape = Shape()
  seed: int = field(0, 'of weights and clips')
  save_every: int = field(100, 'steps between checkpoints', low=1)

  def __post_init__(self):
    if self.width % 8:
      raise ValueError(f'width={self.width}: expected a multiple of 8')


CONFIGS = {'digits': Config()}
