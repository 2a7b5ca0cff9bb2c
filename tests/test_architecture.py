"""Imports go one way: each package imports only from those on its left."""

import ast
import pathlib
import re

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


# How a package is imported, where not by its own name; grain opens ArrayRecord files for us, and needs array_record.
MODULES = {
  'absl-py': 'absl',
  'array_record': 'grain',
  'orbax-checkpoint': 'orbax',
  'pillow': 'PIL',
  'scikit-learn': 'sklearn',
}


def declared() -> list[str]:
  """The packages that every installation brings, without their versions."""
  tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
  lists = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == 'install_requires']
  return [re.match(r'[\w-]+', requirement)[0] for requirement in ast.literal_eval(lists[0])]


def test_every_declared_package_is_imported_by_a_package():
  files = [path for package in PRESENT for path in (ROOT / package).rglob('*.py') if 'perf' not in path.parts]
  used = set().union(*map(imported, files))
  names = declared()
  assert {'jax', 'flax', 'optax', 'grain', 'transformers', 'tokenizers', 'sentencepiece', 'safetensors'} < set(names)
  assert not [name for name in names if MODULES.get(name, name) not in used]


def test_every_package_says_what_it_is():
  for package in PRESENT:
    assert ast.get_docstring(ast.parse((ROOT / package / '__init__.py').read_text(encoding='utf-8'))), package


def defined(module: str) -> set[str] | None:
  """The names at the top level of one of our modules and the modules in it; None where there is no such module."""
  path = ROOT.joinpath(*module.split('.'))
  inside = {p.stem for p in path.glob('*')} if path.is_dir() else set()
  file = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
  if not file.is_file():
    return inside or None
  names = set()
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.add(node.name)
    elif isinstance(node, ast.Import | ast.ImportFrom):
      names |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
  return inside | names


def program_texts():
  """(file, text) of every string in a test that imports something of ours: a program another process runs."""
  for path in sorted((ROOT / 'tests').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Constant) and isinstance(node.value, str) and '\n' in node.value:
        yield path.relative_to(ROOT), node.value


def test_programs_in_tests_import_what_exists():
  """Moving a module must not break a program that only a slow test runs."""
  packages = '|'.join(PRESENT)
  statement = re.compile(rf'^ *(?:from ((?:{packages})[\w.]*) import ([\w, ]+)|import ((?:{packages})\.[\w.]+))', re.M)
  seen, wrong = 0, []
  for path, text in program_texts():
    for source, names, module in statement.findall(text):
      seen += 1
      known = defined(source or module)
      wanted = {name.split(' as ')[0].strip() for name in names.split(',')} if names else set()
      if known is None or wanted - known:
        wrong.append(f'{path}: {source or module}: {sorted(wanted - (known or set())) or "no such module"}')
  assert seen > 20
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('package', PRESENT)
def test_no_folder_holds_too_many_modules(package):
  """A reader sees what a folder is about at a glance; bench/perf is a list of commands."""
  for folder in [ROOT / package, *(ROOT / package).rglob('*/')]:
    modules = sorted(path.name for path in folder.glob('*.py') if path.name != '__init__.py')
    commands = folder == ROOT / 'bench' / 'perf'
    assert commands or len(modules) <= 12, f'{folder.relative_to(ROOT)}: {len(modules)} modules: {modules}'
