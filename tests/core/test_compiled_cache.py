"""A second start of a program reads what the first one compiled, counted by JAX's own events."""

import os
import subprocess
import sys

import pytest

from core.launch import process
from core.launch.process import FOLDER, settings

PROGRAM = """
import dataclasses, sys
from core.launch import command

@dataclasses.dataclass(frozen=True)
class Options:
  pass

def work(options):
  import jax
  events = []
  jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
  jax.block_until_ready(jax.jit(lambda x: 3 * x + 1)(4.0))
  print(events.count('/jax/compilation_cache/cache_hits'), events.count('/jax/compilation_cache/cache_misses'))

sys.exit(command.run(sys.argv, 'A program.', Options, work))
"""


def start(folder):
  """(programs read from the cache, programs compiled anew) of one start."""
  command = [sys.executable, '-c', PROGRAM, f'--compilation_cache={folder}']
  done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=dict(os.environ))
  return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
  hits, compiled_anew = start(tmp_path / 'kept')
  assert hits == 0 and compiled_anew > 0
  assert start(tmp_path / 'kept') == (compiled_anew, 0)


def test_the_flag_wins_over_the_environment_and_that_over_the_default(tmp_path):
  home = {'XDG_CACHE_HOME': str(tmp_path / 'home')}
  mine = home | {FOLDER: str(tmp_path / 'mine')}
  assert settings(None, home)[FOLDER] == str(tmp_path / 'home' / 'espalier' / 'compiled')
  assert settings(None, mine)[FOLDER] == str(tmp_path / 'mine')
  assert settings(str(tmp_path / 'asked'), mine)[FOLDER] == str(tmp_path / 'asked')
  assert settings('gs://bucket/kept', mine)[FOLDER] == 'gs://bucket/kept'
  assert settings('off', mine) == {'JAX_ENABLE_COMPILATION_CACHE': 'false'}


def test_a_folder_that_cannot_be_made_is_an_error_only_where_asked_for(tmp_path):
  (tmp_path / 'file').write_text('')
  assert settings(None, {'XDG_CACHE_HOME': str(tmp_path / 'file')}) == {}
  with pytest.raises(ValueError, match=r'compilation_cache=.*cannot write'):
    settings(str(tmp_path / 'file'), {})


def test_an_imported_program_leaves_the_process_alone(monkeypatch, tmp_path):
  monkeypatch.setenv(FOLDER, 'before')
  process.keep(process.Kept(str(tmp_path)), start)
  assert os.environ[FOLDER] == 'before'
