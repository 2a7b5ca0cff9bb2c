"""Serves the vision tower of an InternVL checkpoint to language services: `python -m internvl.serve_vision --model=…`.

Tiles come over a socket and the features of the image tokens that the language model will read go back (DvD, arXiv
2508.18265 §2.3). Both sides prove that they know the key in the environment variable ESPALIER_VISION_KEY, without which
one is made and printed; what they send is not encrypted, so use a network of your own.
"""

import sys
from collections.abc import Sequence

from core.launch import command
from internvl.serving.options import VisionOptions


def work(options: VisionOptions) -> int:
  """Serves until SIGTERM."""
  from internvl.serving import program

  return program.run_vision(options)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, VisionOptions, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
