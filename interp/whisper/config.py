"""Sizes of Whisper."""

import dataclasses

from core import encoder

NORM_EPS = 1e-5
HOP = 160  # samples a mel frame
RATE = 16_000  # samples a second
STRIDE = 2  # mel frames a position of the encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
  """The encoder of one size. audio_length: its positions, 50 a second."""

  width: int
  heads: int
  encoder_depth: int
  mels: int = 80
  mlp_width: int | None = None  # four times the width
  audio_length: int = 1500

  def __post_init__(self):
    if self.width % self.heads or self.width % 2:
      raise ValueError(f'whisper: width={self.width} is odd or not a multiple of heads={self.heads}')
    if self.mlp_width is None:
      object.__setattr__(self, 'mlp_width', 4 * self.width)

  @property
  def head_dim(self) -> int:
    """Width of a head."""
    return self.width // self.heads

  @property
  def frames(self) -> int:
    """Mel frames of a window."""
    return STRIDE * self.audio_length

  @property
  def samples(self) -> int:
    """Samples of a window."""
    return self.frames * HOP

  @property
  def encoder(self) -> encoder.Config:
    """The encoder's blocks."""
    return encoder.Config(
      width=self.width,
      depth=self.encoder_depth,
      heads=self.heads,
      head_dim=self.head_dim,
      mlp_width=self.mlp_width,
      norm='layer',
      norm_place='pre',
      norm_eps=NORM_EPS,
      biases=('q', 'v', 'o', 'up', 'down'),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
  """One size. text_length: positions of the decoder."""

  decoder_depth: int
  vocab: int
  text_length: int = 448


ENGLISH, MULTILINGUAL, CANTONESE = 51864, 51865, 51866  # sizes of the published vocabularies


def _size(width: int, depth: int, *, vocab: int = MULTILINGUAL, decoder: int | None = None, mels: int = 80) -> Config:
  return Config(
    width=width,
    heads=width // 64,
    encoder_depth=depth,
    decoder_depth=depth if decoder is None else decoder,
    vocab=vocab,
    mels=mels,
  )


CONFIGS: dict[str, Config] = {
  'tiny': _size(384, 4),
  'tiny.en': _size(384, 4, vocab=ENGLISH),
  'base': _size(512, 6),
  'base.en': _size(512, 6, vocab=ENGLISH),
  'small': _size(768, 12),
  'small.en': _size(768, 12, vocab=ENGLISH),
  'medium': _size(1024, 24),
  'medium.en': _size(1024, 24, vocab=ENGLISH),
  'large-v1': _size(1280, 32),
  'large-v2': _size(1280, 32),
  'large-v3': _size(1280, 32, vocab=CANTONESE, mels=128),
  'large-v3-turbo': _size(1280, 32, vocab=CANTONESE, mels=128, decoder=4),
  'distil-large-v2': _size(1280, 32, decoder=2),
  'distil-large-v3': _size(1280, 32, vocab=CANTONESE, mels=128, decoder=2),
  'distil-medium.en': _size(1024, 24, vocab=ENGLISH, decoder=2),
  'distil-small.en': _size(768, 12, vocab=ENGLISH, decoder=4),
}
