"""Serves speech over HTTP: `python -m vibevoice.serve --model=FOLDER --voices=FOLDER`.

POST /v1/audio/speech takes OpenAI's fields and answers while it speaks. `input` is a text, or a script with lines such
as `Speaker 1: Hello.`; `voice` names recordings of the folder of voices, one for each speaker in order. Our own fields
are cfg_scale, seed, and steps, which must be the server's. A page at / speaks scripts.

Each request needs a bearer token: that of the environment variable ESPALIER_SPEECH_TOKEN or, without it, one that is
made and printed at the start. --token=none serves this machine without one. SIGTERM lets running speech end.

Use only voices of people who agreed to it, and say that the speech is generated: the published model cards demand both.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field

TOKEN = 'ESPALIER_SPEECH_TOKEN'


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a TTS checkpoint')
  voices: str | None = field(None, 'folder of recordings; the name of a voice is that of its file without suffix')
  name: str = field('', "the model's name for clients; by default that of its folder")
  rows: int = field(4, 'requests that are spoken at once', low=1, high=1024)
  queue: int = field(64, 'requests that may wait; further ones get 503', low=0)
  steps: int = field(10, 'solver steps a frame', low=1, high=999)
  cfg_scale: float = field(1.3, 'guidance of requests that ask for none', low=0, high=100)
  minutes: float = field(90.0, 'of speech a request may make', low=0.01)
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights and arithmetic; by default bfloat16, and float32 on a CPU'
  )
  int8: bool = field(False, 'keep the projections of the language model in 8 bits')
  int8_head: bool = field(False, 'keep the feed-forwards of the diffusion head in 8 bits')
  host: str = field('127.0.0.1', 'address to serve on')
  port: int = field(8770, 'port to serve on; 0 picks one', low=0, high=65535)
  token: Literal['required', 'none'] = field(
    'required', f'whether requests need the token of {TOKEN}; none: not, on loopback only'
  )
  names: tuple[str, ...] = field((), 'further Host names to answer to, such as that of a proxy in front')
  connections: int = field(1024, 'connections at once', low=1)
  drain: float = field(30.0, 'seconds that running speech may take after SIGTERM', low=0.01)

  def __post_init__(self):
    for name in ('model', 'voices'):
      if not getattr(self, name):
        raise ValueError(f'--{name} is needed')


def work(options: Options) -> int:
  """Serves until SIGTERM; 1 if the device failed."""
  from vibevoice.serving import program

  return program.run(options, token=os.environ.get(TOKEN, ''), variable=TOKEN)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
