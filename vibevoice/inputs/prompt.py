"""The prompt of a TTS model: system text, voices, script, and the token that starts speech."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vibevoice.config import Config
from vibevoice.inputs.script import Line

SYSTEM = (
  ' Transform the text provided by various speakers into speech output, '
  'utilizing the distinct voice of each respective speaker.\n'
)
VOICES = ' Voice input:\n'
SCRIPT = ' Text input:\n'
OUTPUT = ' Speech output:\n'


@dataclasses.dataclass(frozen=True)
class Prompt:
  """tokens: int32 [T], the last one is START. slots: bool [T], the places of the voices' latents, in order."""

  tokens: np.ndarray
  slots: np.ndarray


def build(lines: Sequence[Line], frames: Sequence[int], encode: Callable[[str], list[int]], config: Config) -> Prompt:
  """The prompt of utterances as `script.numbered` gives them.

  frames: latents of each voice, for speaker 0 on; none for voices that the model makes up. Each piece is encoded by
  itself, as in training: joined before, tokens would merge across pieces.
  """
  tokens = encode(SYSTEM)
  if frames:
    tokens += encode(VOICES)
  slots = []
  for speaker, count in enumerate(frames):
    tokens += encode(f' Speaker {speaker}:')
    first = len(tokens) + 1
    slots += range(first, first + count)
    tokens += [config.start, *[config.slot] * count, config.end]
    tokens += encode('\n')
  tokens += encode(SCRIPT)
  for line in lines:
    tokens += encode(utterance(line))
  tokens += [*encode(OUTPUT), config.start]
  is_slot = np.zeros(len(tokens), bool)
  is_slot[slots] = True
  return Prompt(np.asarray(tokens, np.int32), is_slot)


def utterance(line: Line) -> str:
  """One line of the script as the prompt has it."""
  return f' Speaker {line.speaker}: {line.text}\n'
