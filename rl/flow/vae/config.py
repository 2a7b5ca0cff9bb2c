"""Sizes of the autoencoder."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
  """widths: channels of each level, finest first; each level but the last halves the image.

  depth: residual blocks of an encoder level; a decoder level has one more. scale, shift: latents are
  (encoded - shift) · scale. images: channels of an image.
  """

  widths: tuple[int, ...]
  depth: int
  channels: int
  scale: float
  shift: float
  groups: int = 32
  images: int = 3
  eps: float = 1e-6

  def __post_init__(self):
    wrong = [width for width in self.widths if width % self.groups]
    if wrong or not self.widths:
      raise ValueError(f'vae: widths={self.widths}; expected multiples of groups={self.groups}')
    if not self.scale:
      raise ValueError(f'vae: scale={self.scale}; expected another number than 0')

  @property
  def factor(self) -> int:
    """Pixels a latent along each side."""
    return 2 ** (len(self.widths) - 1)


CONFIGS = {
  'flux.1': Config(widths=(128, 256, 512, 512), depth=2, channels=16, scale=0.3611, shift=0.1159),
  'sd3': Config(widths=(128, 256, 512, 512), depth=2, channels=16, scale=1.5305, shift=0.0609),
  'tiny': Config(widths=(8, 16), depth=1, channels=4, scale=0.5, shift=0.1, groups=4),
}
