"""Imports go one way: each package imports only from those on its left."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A package, and the packages of ours it may import.
ALLOWED = {
  'kernels': set(),
  'core': {'kernels'},
  'internvl': {'core', 'kernels'},
  'vibevoice': {'core', 'kernels'},
  'interp': {'core', 'kernels'},
  'rl': {'internvl', 'vibevoice', 'interp', 'core', 'kernels'},
  'agents': {'rl', 'internvl', 'vibevoice', 'interp', 'core', 'kernels'},
  'bench': {'agents', 'rl', 'internvl', 'vibevoice', 'interp', 'core', 'kernels'},
}
PRESENT = [p for p in ALLOWED if (ROOT / p).is_dir()]


def imported(path: pathlib.Path) -> set[str]:
  """The top-level packages a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      found |= {name.name.split('.')[0] for name in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      found.add(node.module.split('.')[0])
  return found


@pytest.mark.parametrize('package', PRESENT)
def test_imports_go_one_way(package):
  ours = set(ALLOWED) - {package}
  for path in (ROOT / package).rglob('*.py'):
    wrong = imported(path) & ours - ALLOWED[package]
    assert not wrong, f'{path.relative_to(ROOT)} imports {sorted(wrong)}'


@pytest.mark.parametrize('package', PRESENT)
def test_no_runtime_file_imports_torch(package):
  # The speed benches compare with torch where it is installed.
  for path in (ROOT / package).rglob('*.py'):
    if 'perf' not in path.parts:
      assert 'torch' not in imported(path), path


def test_every_package_says_what_it_is():
  for package in PRESENT:
    assert ast.get_docstring(ast.parse((ROOT / package / '__init__.py').read_text(encoding='utf-8'))), package
