"""Our packages have plain names; this says when a package of another project is imported in their place."""

import importlib.util
import pathlib
from collections.abc import Iterable

PACKAGES = ('core', 'kernels', 'internvl', 'vibevoice', 'interp', 'rl', 'agents', 'bench')
ROOT = pathlib.Path(__file__).resolve().parents[2]


def shadowed(packages: Iterable[str] = PACKAGES, root: pathlib.Path = ROOT) -> dict[str, str]:
  """Name → place of each package that Python finds outside `root`, where all of ours are."""
  found = {}
  for name in packages:
    spec = importlib.util.find_spec(name)
    place = pathlib.Path(spec.origin).resolve() if spec and spec.origin else None
    if place is None or place.parent.parent != root:
      found[name] = str(place.parent) if place else 'nowhere'
  return found


def check() -> None:
  """Raises ValueError when another project's package would be imported instead of one of ours."""
  if found := shadowed():
    places = ', '.join(f'{name} is {place}' for name, place in found.items())
    raise ValueError(f'packages of another project shadow ours in {ROOT}: {places}; use an environment of its own')
