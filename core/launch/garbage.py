"""Pauses of Python's garbage collector in programs that run for long."""

import gc
from collections.abc import Callable


def freeze(main: Callable) -> None:
  """Exempts what a program has imported from later collections, which would take 0.1 s or more each with jax loaded.

  Only where `main` is the program itself: where it was imported, as by a test, the process belongs to others.
  """
  if main.__module__ == '__main__':
    gc.freeze()
