"""Packages of other projects that have the names of ours: each is named in one line, before it is imported."""

import pathlib
import subprocess
import sys

import pytest

from core.launch import origin
from tests.test_architecture import ALLOWED

ROOT = pathlib.Path(__file__).parents[2]


def test_the_imports_are_those_that_the_architecture_allows():
  assert {package: set(imported) for package, imported in origin.IMPORTS.items()} == ALLOWED


def in_folder(folder, *argv):
  """What a program of ours says when it starts in `folder`: (exit status, standard output, standard error)."""
  env = {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': '/usr/bin:/bin'}
  done = subprocess.run(
    [sys.executable, *argv], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  'hidden, program',
  [
    ('kernels', 'core.plan'),
    ('core', 'rl.train'),
    ('internvl', 'rl.train'),
    ('vibevoice', 'rl.train'),
    ('interp', 'agents.train'),
    ('rl', 'agents.serve_tools'),
    ('agents', 'bench.run'),
  ],
)
def test_a_package_of_another_project_is_named_before_it_is_imported(hidden, program, tmp_path):
  """A working folder with a package of that name, which Python prefers."""
  foreign = tmp_path / hidden / '__init__.py'
  foreign.parent.mkdir()
  foreign.write_text('raise RuntimeError("imported")')
  status, out, err = in_folder(tmp_path, '-m', program, '--help')
  assert (status, out) == (1, '') and err.count('\n') == 1
  assert f'error: packages of another project shadow ours: {hidden} is {foreign}, expected {ROOT / hidden}' in err


def test_all_foreign_packages_are_named_and_only_those_that_are_imported(tmp_path):
  (tmp_path / 'core.py').write_text('')
  for name in ('interp', 'bench'):
    (tmp_path / name).mkdir()
    (tmp_path / name / '__init__.py').write_text('')
  (tmp_path / 'rl').mkdir()  # without __init__.py it hides nothing
  status, _, err = in_folder(tmp_path, '-c', 'import rl')
  assert status == 1 and err.splitlines()[-1].startswith(
    'ImportError: packages of another project shadow ours: core is '
  )
  assert 'interp is' in err and 'bench is' not in err


def test_a_program_checks_every_package(tmp_path, monkeypatch):
  """Also those to the right of its own, which it may load later."""
  assert origin.shadowed() == {}
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere' / '__init__.py').write_text('')
  monkeypatch.syspath_prepend(tmp_path)
  assert origin.shadowed(['elsewhere', 'core', 'nowhere_at_all']) == {
    'elsewhere': str(tmp_path / 'elsewhere' / '__init__.py'),
    'nowhere_at_all': 'nowhere',
  }

  monkeypatch.setattr(origin, 'ROOT', tmp_path)
  with pytest.raises(ValueError, match=r'kernels is .*; bench is .*: use another folder') as caught:
    origin.check()
  assert '\n' not in str(caught.value)
