"""Serves a language model over HTTP in OpenAI's interface: `python -m core.serve --model=FOLDER`.

FOLDER is a checkpoint that `core.decoder` loads. POST /v1/chat/completions and /v1/completions answer whole or as
streams; requests are batched continuously, and prompts with a common beginning share its keys and values. Each request
needs a bearer token: that of the environment variable ESPALIER_API_KEY or, without it, one that is made and printed at
the start. --token=none serves this machine without one. SIGTERM lets running requests end.
"""

import sys
from collections.abc import Sequence

from core.launch import command
from core.serving.chat.options import Options


def work(options: Options) -> int:
  """Serves until SIGTERM."""
  from core.serving.chat import program

  return program.run(options)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
