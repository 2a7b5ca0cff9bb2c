"""Every module imports by its dotted name, and no function hides a module."""

import importlib
import importlib.util
import pathlib
import sys
import types

import pytest

from core.launch import extras

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = [
  name
  for name in ('kernels', 'core', 'internvl', 'vibevoice', 'interp', 'rl', 'agents', 'bench')
  if (ROOT / name).is_dir()
]
# Command lines that share the name of a promised function: importing them gives the function.
COMMANDS = {'internvl.chat', 'vibevoice.synthesize'}
# Scripts for an environment of their own, which must not be imported here.
FOREIGN = {'bench.perf.grpo_peer', 'bench.perf.rollout_peer'}


def dotted(path: pathlib.Path) -> str:
  """The name of the module in a file."""
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def modules() -> list[str]:
  """Every module but the programs of packages, which run when imported."""
  paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob('*.py'))]
  return [name for name in map(dotted, paths) if not name.endswith('__main__') and name not in FOREIGN]


@pytest.fixture(scope='module')
def imported() -> dict[str, object]:
  """Name → what importing it gives; all of them, so that a module that hides another has done so."""
  found = {}
  for name in modules():
    try:
      found[name] = importlib.import_module(name)
    except ModuleNotFoundError as error:  # such as ray, which no test needs
      if not extras.extra(error.name):
        raise
  return found


def test_a_dotted_name_gives_the_module(imported):
  wrong = [name for name, got in imported.items() if not isinstance(got, types.ModuleType) and name not in COMMANDS]
  assert not wrong
  for name in COMMANDS:
    assert importlib.util.find_spec(name).origin.endswith('.py')
    assert isinstance(imported[name], types.FunctionType) and imported[name].__name__ == name.rpartition('.')[2]


def test_a_package_shows_its_modules_and_not_functions_of_their_names(imported):
  hidden = []
  for name, got in imported.items():
    package, _, child = name.rpartition('.')
    if package and getattr(sys.modules[package], child) is not got:
      hidden.append(name)
  assert not hidden


def test_what_a_package_promises_exists(imported):
  for name, got in imported.items():
    for public in getattr(got, '__all__', ()):
      assert hasattr(got, public), f'{name}.{public}'


def test_importing_a_command_line_defines_no_flags(imported):
  from absl import flags

  ours = [f.name for group in flags.FLAGS.flags_by_module_dict().items() for f in group[1] if group[0] in imported]
  assert not ours
