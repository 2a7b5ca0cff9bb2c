"""Training any policy by reward: `rl.run` is the loop, and everything else its parts."""

import runpy
from typing import Any

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)


__all__ = ['run']


def __getattr__(name: str) -> Any:
  # The loop imports every model; a process that only computes rewards must not.
  if name == 'run':
    from rl.loop import run

    return run
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
