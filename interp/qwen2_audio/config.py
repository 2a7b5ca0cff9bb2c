"""Sizes of Qwen2-Audio."""

import dataclasses

from core import decoder
from interp.whisper.config import EncoderConfig

POOL = 2  # encoder positions that become one audio token, 40 ms


@dataclasses.dataclass(frozen=True)
class Config:
  """The audio tower and the language model. audio_token: id of the token that stands for one vector of audio."""

  audio: EncoderConfig
  language: decoder.Config
  audio_token: int = 151646

  def __post_init__(self):
    if self.audio.audio_length % POOL:
      raise ValueError(f'qwen2_audio: audio_length={self.audio.audio_length}; expected a multiple of {POOL}')
    if not 0 <= self.audio_token < self.language.vocab:
      raise ValueError(f'qwen2_audio: audio_token={self.audio_token} is outside the vocabulary {self.language.vocab}')


def audio_tokens(frames):
  """The number of audio tokens of a recording of `frames` mel frames, a number or an array."""
  positions = (frames - 1) // 2 + 1
  return (positions - POOL) // POOL + 1


_LANGUAGE = decoder.Config(
  vocab=156032,
  width=4096,
  depth=32,
  heads=32,
  kv_heads=32,
  head_dim=128,
  mlp_width=11008,
  norm_eps=1e-5,
  rope_theta=1e4,
  qkv_bias=True,
  max_length=8192,
)
CONFIGS: dict[str, Config] = {
  '7B': Config(
    audio=EncoderConfig(width=1280, heads=20, encoder_depth=32, mels=128),
    language=_LANGUAGE,
  ),
}
