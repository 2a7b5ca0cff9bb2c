"""What a program sets for its whole process: compiled programs are kept, the garbage collector passes over imports.

Compiled programs are kept between runs by JAX's persistent compilation cache, in the folder of --compilation_cache,
else of the environment variable JAX_COMPILATION_CACHE_DIR, else `espalier/compiled` in XDG_CACHE_HOME or ~/.cache.
JAX keys an entry by program, version, flags and device. Nothing is ever deleted: remove the folder to free the disk.
"""

import dataclasses
import gc
import os
import pathlib
import sys
from collections.abc import Callable, Mapping

from core.launch.fields import field

OFF = 'off'
FOLDER = 'JAX_COMPILATION_CACHE_DIR'


@dataclasses.dataclass(frozen=True)
class Kept:
  """The flags of every program about compiled programs."""

  compilation_cache: str | None = field(
    None,
    f'folder that keeps compiled programs between runs, or "{OFF}"; default {FOLDER} or ~/.cache/espalier/compiled',
  )


def settings(asked: str | None, environment: Mapping[str, str]) -> dict[str, str]:
  """The environment variables that JAX should see; those of the user stay, except where a flag was given.

  Raises ValueError for an asked folder that cannot be written to.
  """
  if asked == OFF:
    return {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
  folder = asked or environment.get(FOLDER) or _default(environment)
  if not asked and not _writable(folder):
    return {}
  if asked and not _writable(folder):
    raise ValueError(f'--compilation_cache={asked}: cannot write to this folder')
  # Jobs compile hundreds of small programs; reading one back takes a few milliseconds.
  always = environment.get('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  return {FOLDER: folder, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': always}


def _default(environment: Mapping[str, str]) -> str:
  caches = environment.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(caches, 'espalier', 'compiled')


def _writable(folder: str) -> bool:
  """Whether files can be made in `folder`, which is made if need be; a remote one (gs://) is left to JAX."""
  if '://' in folder:
    return True
  if not os.path.isabs(folder) and folder.startswith('~'):  # a user without a home
    return False
  try:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  except OSError:
    return False
  return os.access(folder, os.W_OK)


def keep(options: Kept, main: Callable) -> None:
  """Turns the cache on, or off, for this program and those that it starts.

  Only where `main` is the program itself: where it was imported, as by a test, the process belongs to others.
  """
  if main.__module__ != '__main__':
    return
  chosen = settings(options.compilation_cache, os.environ)
  os.environ.update(chosen)
  if 'jax' in sys.modules:  # it has read the environment already
    for name, value in chosen.items():
      _update(name.lower(), value)


def _update(name: str, value: str) -> None:
  import jax

  kinds = {'jax_enable_compilation_cache': lambda text: text == 'true'}
  kinds['jax_persistent_cache_min_compile_time_secs'] = float
  jax.config.update(name, kinds.get(name, str)(value))


def freeze(main: Callable) -> None:
  """Exempts what a program has imported from later collections, which would take 0.1 s or more each with jax loaded.

  Only where `main` is the program itself, as above.
  """
  if main.__module__ == '__main__':
    gc.freeze()
