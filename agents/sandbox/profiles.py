"""What a zygote has done before the first fork: imports, and the first use that fills the libraries' caches."""

import contextlib
import ctypes
import importlib

_STANDARD = """array bisect cmath collections copy csv dataclasses datetime decimal enum fractions functools heapq
itertools json math operator random re statistics string textwrap time typing"""


def _python() -> None:
  for name in _STANDARD.split():
    importlib.import_module(name)
  _lock_databases_by_folder()


def _lock_databases_by_folder() -> None:
  """Makes SQLite lock a database by making a folder next to it: isolated code has no record locks."""
  with contextlib.suppress(ImportError, AttributeError, OSError):  # a Python without sqlite3, or with it inside
    library = ctypes.CDLL(importlib.import_module('_sqlite3').__file__)
    library.sqlite3_vfs_find.restype = ctypes.c_void_p
    by_folder = library.sqlite3_vfs_find(b'unix-dotfile')
    if by_folder:
      library.sqlite3_vfs_register(ctypes.c_void_p(by_folder), 1)


def _numpy() -> None:
  _python()
  import numpy as np

  importlib.import_module('numpy.random')
  np.linalg.solve(np.eye(2), np.ones(2))


def _sympy() -> None:
  _numpy()
  import sympy

  x = sympy.Symbol('x')
  sympy.solve(x**2 - 2, x)
  sympy.integrate(x**2 * sympy.exp(x), x)
  sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)


def _scipy() -> None:
  _sympy()
  for part in ('integrate', 'linalg', 'optimize', 'special'):
    importlib.import_module(f'scipy.{part}')


PROFILES = {'python': _python, 'numpy': _numpy, 'sympy': _sympy, 'scipy': _scipy}
