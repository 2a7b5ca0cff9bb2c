"""Our packages have plain names; this says when a package of another project is imported in place of one of ours.

The `__init__` of each package runs this file by its path, since `core` itself may be the one that is hidden.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Iterable

# A package → those of ours that it imports. No program lives in `kernels`, which imports none.
IMPORTS = {
  'kernels': (),
  'core': ('kernels',),
  'internvl': ('kernels', 'core'),
  'vibevoice': ('kernels', 'core'),
  'interp': ('kernels', 'core'),
  'rl': ('kernels', 'core', 'internvl', 'vibevoice', 'interp'),
  'agents': ('kernels', 'core', 'internvl', 'vibevoice', 'interp', 'rl'),
  'bench': ('kernels', 'core', 'internvl', 'vibevoice', 'interp', 'rl', 'agents'),
}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def shadowed(packages: Iterable[str] = tuple(IMPORTS)) -> dict[str, str]:
  """Name → file of each package that Python finds outside ROOT, where all of ours are."""
  hidden = {}
  for name in packages:
    spec = importlib.util.find_spec(name)
    origin = None
    if spec and spec.origin:
      origin = pathlib.Path(spec.origin).resolve()
    if origin != ROOT / name / '__init__.py':
      hidden[name] = str(origin or 'nowhere')
  return hidden


def check(packages: Iterable[str] = tuple(IMPORTS)) -> None:
  """Raises ValueError, in one line, if Python would import another project's package in place of one of ours."""
  if hidden := shadowed(packages):
    raise ValueError(_complaint(hidden))


def check_imports(package: str) -> None:
  """Checks what `package` imports, while it is imported itself.

  Raises ImportError, or ends the program with one line if Python is looking for a program of the package (`python -m`).
  """
  hidden = shadowed(IMPORTS[package])
  if not hidden:
    return
  if sys.argv[:1] == ['-m']:  # what Python puts there until it has found the program's file
    sys.exit(f'error: {_complaint(hidden)}')
  raise ImportError(_complaint(hidden))


def _complaint(hidden: dict[str, str]) -> str:
  """What hides which packages, and what helps."""
  places = '; '.join(f'{name} is {file}, expected {ROOT / name}' for name, file in hidden.items())
  return f'packages of another project shadow ours: {places}: use another folder, or an environment of its own'
