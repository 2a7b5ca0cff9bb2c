"""Chats with an InternVL checkpoint about images and videos.

    python -m internvl.chat --model=FOLDER --image=a.png --prompt='What is this?'
    python -m internvl.chat --model=FOLDER --image=a.png            # a conversation, one line a turn
    echo 'What is this?' | python -m internvl.chat --model=FOLDER --image=a.png

FOLDER is a checkpoint as published (either layout), or the workdir of a finished training run.
In a conversation, /image PATH and /video PATH add to the next turn, and /new starts a new one.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.devices import Mesh
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a checkpoint, or workdir of a training run')
  image: tuple[str, ...] = field((), 'image file', repeated=True)
  video: tuple[str, ...] = field((), 'video file or folder of frames', repeated=True)
  prompt: str | None = field(
    None,
    'the question; <image> and <video> in it mark where media go. Without it, lines are read '
    'from the terminal or standard input',
  )
  system: str | None = field(None, "system text, instead of the checkpoint's own; '' for none")
  thinking: bool = field(False, 'reason before answering; use it with --temperature=0.6')
  adapter: str | None = field(None, 'folder of a PEFT adapter of this model')
  max_tiles: int | None = field(None, "tiles of an image at most; by default the checkpoint's own limit", low=1)
  frames: int | None = field(None, "frames of a video; by default the checkpoint's own number", low=1)
  max_new_tokens: int | None = field(
    None, 'longest answer, in tokens; by default as generation_config.json says, else 512', low=1
  )
  temperature: float | None = field(
    None, '0 takes the likeliest token each time; by default as generation_config.json says, else 0', low=0
  )
  top_p: float | None = field(
    None, 'sample among the likeliest tokens of this total probability; by default as the file says, else 1', high=1
  )
  top_k: int | None = field(
    None, 'sample among that many likeliest tokens, 0: all; by default as the file says, else 0', low=0
  )
  repetition_penalty: float | None = field(None, 'of tokens said before, 1: none; by default as the file says, else 1')
  seed: int = field(0, 'of sampling')
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights and arithmetic; by default bfloat16, and float32 on a CPU'
  )
  compression: Literal['auto', 'absolute', 'all', 'off'] | None = field(
    None,
    "of a Flash model's image tokens: by its rule, by its absolute threshold alone (a tile's routing then does not "
    "depend on the other tiles), of all tiles, or of none; by default the checkpoint's own setting",
  )
  tiles_png: str | None = field(None, "file for a picture of the last turn's tiles, compressed ones tinted")
  int8: bool = field(False, "the language model's matrices in 8 bits: half the memory of bfloat16")
  mesh: Mesh = field(Mesh(), 'axes of the devices')

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')
    for name in ('top_p', 'repetition_penalty'):
      value = getattr(self, name)
      if value is not None and value <= 0:
        raise ValueError(f'--{name}={value:g}: expected a number above 0')
    if self.tiles_png and not pathlib.Path(self.tiles_png).parent.is_dir():
      raise ValueError(f'--tiles_png={self.tiles_png}: expected a file in a folder that exists')
    if self.thinking and self.system is not None:
      raise ValueError('--thinking brings its own system text: give either it or --system')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  from internvl import terminal

  return command.run(argv, __doc__, Options, terminal.talk)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
elif __name__ == 'internvl.chat':
  # `internvl.chat` is promised to be the function. Importing this module binds its name in the package to what
  # sys.modules holds afterwards, so the function is left there in the module's place; with the module's spec, by which
  # `python -m` and others find the file.
  from internvl.conversation import chat

  chat.__spec__ = __spec__
  sys.modules[__name__] = chat
