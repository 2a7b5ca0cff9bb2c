"""Options of `vibevoice.train_tokenizer`."""

import dataclasses
from typing import Literal

from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim


@dataclasses.dataclass(frozen=True)
class Adversarial:
  """The adversarial loss of the acoustic tokenizer; the defaults are DAC's discriminators, with a weight of 0."""

  weight: float = field(0.0, 'weight of the adversarial loss, 1 for DAC; 0: no discriminators', low=0.0)
  features: float = field(2.0, 'weight of the distance between features of the discriminators', low=0.0)
  periods: tuple[int, ...] = field((2, 3, 5, 7, 11), 'discriminators that see every p-th sample in a column')
  windows: tuple[int, ...] = field((2048, 1024, 512), 'samples of a window, one discriminator of spectrograms for each')
  channels: int = field(32, 'channels of their first layers', low=1)

  def __post_init__(self):
    if self.weight and not (self.periods or self.windows):
      raise ValueError(f'adversarial weight={self.weight} without periods and windows: expected a discriminator')
    for name in ('periods', 'windows'):
      wrong = [size for size in getattr(self, name) if size < 1 or (name == 'windows' and size % 4)]
      if wrong:
        raise ValueError(f'adversarial {name}={wrong[0]}: expected 1 or more samples, windows a multiple of 4')


@dataclasses.dataclass(frozen=True)
class Config:
  """How one of the two tokenizers of a TTS model is trained on recordings."""

  model: str = field('', 'folder of a TTS checkpoint; empty: a small one with random weights')
  data: tuple[str, ...] = field((), 'JSONL files of {"script", "audio"}; empty: spoken digits made by espeak-ng')
  clips: int = field(600, 'clips that espeak-ng makes if no data file is given', low=1)
  silence: float = field(0.2, 'factor of 0.25 s before, 0.75 s after a recording and 0.25 s fades', low=0.0)
  part: Literal['acoustic', 'semantic'] = field('acoustic', 'the tokenizer to train')
  batch: int = field(4, 'recordings a step', low=1)
  frames: int = field(8, 'frames of the random crop that the acoustic tokenizer sees', low=1)
  mel_weight: float = field(15.0, 'weight of the mel distance', low=0.0)
  wave_weight: float = field(1.0, 'weight of the L1 distance of waveforms', low=0.0)
  latent_weight: float = field(0.01, 'weight of the mean square of latents', low=0.0)
  adversarial: Adversarial = Adversarial()
  optim: Optim = Optim(lr=3e-3, warmup_steps=50, end=0.1)
  steps: int = field(2500, 'updates', low=1)
  mesh: Shape = Shape()
  seed: int = field(0, 'of weights, order of the data, crops and noise')
  save_every: int = field(250, 'steps between checkpoints', low=1)


SEMANTIC = Config(part='semantic', batch=8, optim=Optim(lr=2e-3, warmup_steps=50, end=0.1), steps=300)
CONFIGS = {'tiny': Config(), 'tiny-semantic': SEMANTIC}
