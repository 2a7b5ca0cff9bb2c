"""From a script and voices to what a TTS model reads."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.files import store
from core.files.config import read_json
from core.files.store import CheckpointError, FolderPath
from core.files.tokenizers import TextEncoder, load_tokenizer, token_id
from vibevoice import tokenizer
from vibevoice.config import Config, RealtimeConfig
from vibevoice.files.config_in import config_from
from vibevoice.inputs import budget, prompt, script

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

# The tokens of Qwen's vocabulary that VibeVoice gives a meaning of its own, by role.
SPECIAL = {'start': '<|vision_start|>', 'end': '<|vision_end|>', 'slot': '<|vision_pad|>', 'eos': '<|endoftext|>'}


@dataclasses.dataclass(frozen=True)
class Inputs:
  """One script, ready. tokens: int32 [T], the last one is START. slots: bool [T], places of the voices' latents.
  voices: float32 [n] clips in order."""

  tokens: np.ndarray
  slots: np.ndarray
  voices: tuple[np.ndarray, ...] = ()


class Processor:
  """Encodes scripts and voices for one checkpoint."""

  def __init__(self, tokenizer: 'PreTrainedTokenizerFast', config: Config):
    """Raises ValueError if the vocabulary and the config disagree about a special token."""
    for role, token in SPECIAL.items():
      _check_token(tokenizer, token, getattr(config, role), role)
    self.config = config
    self.tokenizer = tokenizer
    self.encode = TextEncoder(tokenizer)

  @classmethod
  def load(cls, path: FolderPath) -> 'Processor':
    """That of a published folder with a TTS model's config.json and tokenizer files.

    Raises CheckpointError for another kind of model, FileNotFoundError or ValueError as `load_tokenizer` does.
    """
    config = _read_config(path)
    if not isinstance(config, Config):
      raise CheckpointError(f'{path}: a Realtime model, which reads no scripts; expected a TTS model')
    return cls(load_tokenizer(path), config)

  def __call__(self, lines: Sequence[script.Line], voices: Sequence[np.ndarray] = ()) -> Inputs:
    """The inputs of a script's utterances.

    voices: clips float32 [n], mono, at 24 kHz, of the script's speakers in order; more than there are speakers are not
    used. Without any the model makes up the voices. Raises ValueError as `script.numbered` does, and for a prompt that
    leaves no frame of the context, by how many tokens.
    """
    numbered = script.numbered(lines, len(voices))
    speakers = len({line.speaker for line in numbered})
    clips = tuple(voices[:speakers])
    frames = [tokenizer.frames(self.config.acoustic, len(clip)) for clip in clips]
    built = prompt.build(numbered, frames, self.encode, self.config)
    excess = len(built.tokens) + 1 - self.config.language.max_length
    if excess > 0:
      raise ValueError(
        f'the script and {sum(frames)} frames of voices make {len(built.tokens)} tokens: {excess} too many for the '
        f'context of {self.config.language.max_length}, which holds the speech too'
      )
    return Inputs(tokens=built.tokens, slots=built.slots, voices=clips)

  def plan(self, lines: Sequence[script.Line], voices: Sequence[np.ndarray] = ()) -> budget.Budget:
    """What utterances in voices, clips float32 [n], take of the context. Raises ValueError as `script.numbered`."""
    speakers = len({line.speaker for line in lines})
    frames = [tokenizer.frames(self.config.acoustic, len(clip)) for clip in voices[:speakers]]
    return budget.plan(lines, frames, self.encode, self.config)


class RealtimeProcessor:
  """Encodes text for one Realtime checkpoint."""

  def __init__(self, tokenizer: 'PreTrainedTokenizerFast', config: RealtimeConfig):
    """Raises ValueError if the vocabulary and the config disagree about the token of the negative branch."""
    _check_token(tokenizer, '<|image_pad|>', config.negative, 'negative')
    self.config = config
    self.tokenizer = tokenizer
    self.encode = TextEncoder(tokenizer)

  @classmethod
  def load(cls, path: FolderPath) -> 'RealtimeProcessor':
    """That of a published folder with a Realtime model's config.json and tokenizer files.

    Raises as `Processor.load`.
    """
    config = _read_config(path)
    if not isinstance(config, RealtimeConfig):
      raise CheckpointError(f'{path}: a TTS model; expected a Realtime one')
    return cls(load_tokenizer(path), config)


def load_processor(path: FolderPath) -> Processor | RealtimeProcessor:
  """That of a published folder of either kind; raises as `Processor.load`."""
  is_tts = isinstance(_read_config(path), Config)
  if is_tts:
    return Processor.load(path)
  return RealtimeProcessor.load(path)


def _read_config(path: FolderPath) -> Config | RealtimeConfig:
  folder = store.folder(path)
  return config_from(read_json(folder, 'config.json'), f'{folder}/config.json')[0]


def _check_token(tokenizer: 'PreTrainedTokenizerFast', token: str, said: int, role: str) -> None:
  stored = token_id(tokenizer, token)
  if stored != said:
    raise ValueError(f'{token} is {stored} in the vocabulary and {said} in the config ({role}); expected the same')
