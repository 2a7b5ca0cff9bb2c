"""Serves InternVL over HTTP in OpenAI's interface: `python -m internvl.serve --model=FOLDER`.

Further to `python -m core.serve`: images as data URLs, several of them, and videos as lists of frames; of a Flash model
each request's tiles are routed, and `usage` says how many image tokens that saved. A page at / chats with images and
shows their tiles. --vision=separate or --vision=HOST:PORT decouples the vision tower (DvD, arXiv 2508.18265 §2.3): it
encodes the tiles of the next requests while the language model decodes.

Each request needs a bearer token: that of the environment variable ESPALIER_API_KEY or, without it, one that is made
and printed at the start. --token=none serves this machine without one. SIGTERM lets running requests end.
"""

import sys
from collections.abc import Sequence

from core.launch import command
from internvl.serving.options import Options


def work(options: Options) -> int:
  """Serves until SIGTERM."""
  from internvl.serving import program

  return program.run(options)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
