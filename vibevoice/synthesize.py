"""Speaks a script with a VibeVoice checkpoint and writes a wav file.

    python -m vibevoice.synthesize --model=FOLDER --script=show.txt --voices=ann.wav --voices=bob.wav --out=show.wav
    some-program | python -m vibevoice.synthesize --model=REALTIME --script=- --voices=preset.pt --out=- | aplay …

A TTS model reads a script: one utterance a line, `Speaker 1: Hello.`, or JSON. Voices are recordings of the speakers,
in order, of a few seconds each; without any the model makes voices up. A Realtime model reads plain text and has one
voice, a published preset; with --script=- it speaks while the text arrives on standard input. Use only voices of people
who agreed to it, and say that the speech is generated: the published model cards demand both.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a checkpoint')
  script: str | None = field(None, 'a .txt or .json file; - for standard input')
  voices: tuple[str, ...] = field(
    (), 'recording of a speaker, one flag for each in order; Realtime: one preset, .pt', repeated=True
  )
  out: str | None = field(
    None, 'wav file, which appears when the speech is complete; -: PCM of 16 bits to standard output as it is made'
  )
  plan: bool = field(False, 'only say what the script takes of the context and what to cut; reads no weights')
  cfg_scale: float | None = field(None, "guidance, 1 for none; by default the model family's own", low=0)
  steps: int | None = field(None, "solver steps a frame; by default the model family's own", low=1, high=999)
  seed: int = field(0, 'of all noise', low=0)
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights and arithmetic; by default bfloat16, and float32 on a CPU'
  )
  int8: bool = field(False, 'keep the projections of the language model in 8 bits')
  int8_head: bool = field(False, 'keep the feed-forwards of the diffusion head in 8 bits')

  def __post_init__(self):
    for name in ('model', 'script') if self.plan else ('model', 'script', 'out'):
      if not getattr(self, name):
        raise ValueError(f'--{name} is needed')
    if self.plan or self.out == '-':
      return
    out = pathlib.Path(self.out)
    if out.suffix.lower() != '.wav' or not out.parent.is_dir():
      raise ValueError(f'--out={self.out}: expected a .wav file in a folder that exists, or -')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  from vibevoice import terminal

  return command.run(argv, __doc__, Options, terminal.speak)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
elif __name__ == 'vibevoice.synthesize':
  # `vibevoice.synthesize` is promised to be the function; see the end of internvl/chat.py.
  from vibevoice.synthesis import synthesize

  synthesize.__spec__ = __spec__
  sys.modules[__name__] = synthesize
