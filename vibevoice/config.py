"""What VibeVoice models are made of: configurations and the published sizes.

Notation follows the paper (arXiv 2508.19205): a hop is the samples of one frame, a latent the vector of one frame.
"""

import dataclasses
import math
from typing import Literal

from core import decoder

SAMPLE_RATE = 24_000  # samples a second, of every model of the family


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """A tokenizer: a causal convolutional encoder of audio and, for the acoustic one, its mirrored decoder.

  latent: width of a frame's vector. filters: channels of the first stage; each stage doubles them. ratios, depths:
  strides and blocks in the order of the encoder; depths has one stage more. mlp_ratio: hidden width of a block over its
  channels. sampling, std: noise of the latents (`vibevoice.tokenizer.sample`). layer_scale, init_std: initial values of
  the blocks' scales and deviation of all other weights (None: by fan-in).
  """

  latent: int
  filters: int = 32
  ratios: tuple[int, ...] = (2, 2, 4, 5, 5, 8)
  depths: tuple[int, ...] = (3, 3, 3, 3, 3, 3, 8)
  kernel: int = 7
  mlp_ratio: int = 4
  eps: float = 1e-5
  sampling: Literal['gaussian', 'fix', 'none'] = 'none'
  std: float = 0.0
  layer_scale: float = 1e-6
  init_std: float | None = 0.01

  def __post_init__(self):
    if len(self.depths) != len(self.ratios) + 1:
      raise ValueError(
        f'tokenizer: {len(self.depths)} depths and {len(self.ratios)} ratios; expected one depth more than ratios'
      )
    if (self.sampling == 'none') != (self.std == 0):
      raise ValueError(f"tokenizer: sampling={self.sampling!r} with std={self.std}; expected std 0 just for 'none'")

  @property
  def hop(self) -> int:
    """Samples of one frame."""
    return math.prod(self.ratios)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each stage, in the order of the encoder."""
    return tuple(self.filters * 2**stage for stage in range(len(self.depths)))


@dataclasses.dataclass(frozen=True)
class HeadConfig:
  """The diffusion head: `depth` blocks of `width` that denoise one latent, given one hidden state of that width."""

  width: int
  latent: int = 64
  depth: int = 4
  mlp_ratio: int = 3
  eps: float = 1e-5
  frequency_width: int = 256  # of the timestep's sinusoids

  @property
  def mlp_width(self) -> int:
    """Hidden width of a block's feed-forward."""
    return self.mlp_ratio * self.width


@dataclasses.dataclass(frozen=True)
class Config:
  """A TTS model. start, end, slot, eos: ids of the tokens around speech, at each frame of it, and at the end."""

  language: decoder.Config
  acoustic: TokenizerConfig
  semantic: TokenizerConfig
  head: HeadConfig
  start: int = 151652
  end: int = 151653
  slot: int = 151654
  eos: int = 151643

  def __post_init__(self):
    _check_head(self.head, self.language, self.acoustic)
    if self.acoustic.hop != self.semantic.hop:
      raise ValueError(f'vibevoice: hops of {self.acoustic.hop} and {self.semantic.hop} samples; expected the same')
    for role in ('start', 'end', 'slot', 'eos'):
      _check_token(role, getattr(self, role), self.language)


@dataclasses.dataclass(frozen=True)
class RealtimeConfig:
  """A Realtime model: a language model cut in two, `lower` with the embedding and `upper` with the final norm.

  negative: id of the one token that the unguided branch sees.
  """

  lower: decoder.Config
  upper: decoder.Config
  acoustic: TokenizerConfig
  head: HeadConfig
  negative: int = 151655

  def __post_init__(self):
    _check_head(self.head, self.upper, self.acoustic)
    if self.lower.width != self.upper.width:
      raise ValueError(f'vibevoice: widths {self.lower.width} and {self.upper.width}; expected the same')
    _check_token('negative', self.negative, self.lower)


def _check_head(head: HeadConfig, language: decoder.Config, acoustic: TokenizerConfig) -> None:
  if head.width != language.width:
    raise ValueError(f"vibevoice: head of width {head.width}; expected {language.width}, the language model's")
  if head.latent != acoustic.latent:
    raise ValueError(f"vibevoice: head of latent {head.latent}; expected {acoustic.latent}, the tokenizer's")


def _check_token(role: str, token: int, language: decoder.Config) -> None:
  if not 0 <= token < language.vocab:
    raise ValueError(f'vibevoice: {role}={token} is outside the vocabulary of {language.vocab}')


ACOUSTIC = TokenizerConfig(latent=64, sampling='gaussian', std=0.5)
SEMANTIC = TokenizerConfig(latent=128)


def _tts(language: str, max_length: int) -> Config:
  size = dataclasses.replace(decoder.CONFIGS[language], max_length=max_length)
  return Config(language=size, acoustic=ACOUSTIC, semantic=SEMANTIC, head=HeadConfig(width=size.width))


def split(language: decoder.Config, lower_depth: int) -> tuple[decoder.Config, decoder.Config]:
  """(lower, upper) stack of a language model cut after `lower_depth` layers, without an output matrix."""
  lower = dataclasses.replace(language, depth=lower_depth, final_norm=False, tied=True)
  upper = dataclasses.replace(language, depth=language.depth - lower_depth, embedding=False, tied=True)
  return lower, upper


def _realtime(language: decoder.Config, lower_depth: int, acoustic: TokenizerConfig, head: HeadConfig, negative: int):
  lower, upper = split(language, lower_depth)
  return RealtimeConfig(lower=lower, upper=upper, acoustic=acoustic, head=head, negative=negative)


_QWEN_HALF = dataclasses.replace(
  decoder.CONFIGS['qwen2.5-1.5b'], width=896, mlp_width=4864, depth=24, heads=14, head_dim=64, max_length=8192
)
_TINY_LANGUAGE = dataclasses.replace(decoder.CONFIGS['tiny'], qk_norm=False, qkv_bias=True)
_TINY_ACOUSTIC = TokenizerConfig(
  latent=8,
  filters=4,
  ratios=(2, 4, 5),
  depths=(1, 1, 1, 2),
  sampling='gaussian',
  std=0.5,
  layer_scale=0.4,
  init_std=None,
)
_TINY_SEMANTIC = dataclasses.replace(_TINY_ACOUSTIC, latent=12, sampling='none', std=0.0)
_TINY_HEAD = HeadConfig(width=_TINY_LANGUAGE.width, latent=_TINY_ACOUSTIC.latent, depth=2, frequency_width=32)

CONFIGS: dict[str, Config | RealtimeConfig] = {
  '1.5B': _tts('qwen2.5-1.5b', 65536),
  '7B': _tts('qwen2.5-7b', 32768),
  'Realtime-0.5B': _realtime(_QWEN_HALF, 4, ACOUSTIC, HeadConfig(width=_QWEN_HALF.width), 151655),
  'tiny': Config(
    language=_TINY_LANGUAGE,
    acoustic=_TINY_ACOUSTIC,
    semantic=_TINY_SEMANTIC,
    head=_TINY_HEAD,
    start=257,
    end=258,
    slot=259,
    eos=256,
  ),
  'tiny-realtime': _realtime(dataclasses.replace(_TINY_LANGUAGE, depth=3), 1, _TINY_ACOUSTIC, _TINY_HEAD, negative=260),
}
