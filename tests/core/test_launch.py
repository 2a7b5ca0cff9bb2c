"""Command lines become configs, and bad ones become one clear line."""

import dataclasses
import pathlib
import subprocess
import sys
import textwrap
import time
from typing import Literal, Optional

import pytest
from absl import flags

from core.launch import job as launch
from core.launch.fields import field
from core.launch.job import UsageError
from core.training import optim

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Model:
  width: int = field(32, 'model width')
  heads: int = field(2, 'attention heads')
  rates: tuple[float, ...] = field((0.1, 0.2), 'one a layer')
  size: tuple[int, int] = field((4, 8), 'height and width')

  def __post_init__(self):
    if self.width % self.heads:
      raise ValueError(f'heads={self.heads}: expected a divisor of width={self.width}')


@dataclasses.dataclass(frozen=True)
class Config:
  model: Model = Model()
  optim: optim.Optim = field(optim.Optim(), 'the update rule')
  steps: int = field(10, 'training steps')
  name: str = field('x', 'a label')
  limit: Optional[int] = field(None, 'most examples')  # noqa: UP045 (both spellings must work)
  mode: Literal['fast', 'slow'] = field('fast', 'how')
  shuffle: bool = field(True, 'shuffle the data')


CONFIGS = {'tiny': Config(), 'large': dataclasses.replace(Config(), model=Model(width=64), steps=99)}


def parse(*argv):
  return launch.parse(CONFIGS, 'tiny', ['prog', *argv], flags.FlagValues())[0]


def test_no_flags_give_the_default_and_a_name_picks():
  assert parse() == CONFIGS['tiny'] and parse('--config=large') == CONFIGS['large']
  assert parse('--config', 'large') == CONFIGS['large']


@pytest.mark.parametrize(
  'flag, path, value',
  [
    ('--config.optim.lr=1e-5', 'optim.lr', 1e-5),
    ('--config.optim.lr=1', 'optim.lr', 1.0),
    ('--config.steps=7', 'steps', 7),
    ('--config.limit=3', 'limit', 3),
    ('--config.limit=none', 'limit', None),
    ('--config.optim.clip_norm=none', 'optim.clip_norm', None),
    ('--config.optim.b1=0.8', 'optim.b1', 0.8),
    ('--config.optim.name=muon', 'optim.name', 'muon'),
    ('--config.name=none', 'name', 'none'),
    ('--config.name=3', 'name', '3'),
    ('--config.shuffle=false', 'shuffle', False),
    ('--noconfig.shuffle', 'shuffle', False),
    ('--config.mode=slow', 'mode', 'slow'),
    ('--config.model.rates=(1,2.5,3)', 'model.rates', (1.0, 2.5, 3.0)),
    ('--config.model.rates=()', 'model.rates', ()),
    ('--config.model.size=3,5', 'model.size', (3, 5)),
    ('--config.model.width=48', 'model.width', 48),
  ],
)
def test_any_field_can_be_set(flag, path, value):
  got = parse(flag)
  for part in path.split('.'):
    got = getattr(got, part)
  assert got == value and type(got) is type(value)


def test_overrides_add_to_the_chosen_config():
  got = parse('--config=large', '--config.steps=5', '--config.optim.lr=0.5', '--config.optim.b2=0.9')
  want = CONFIGS['large']
  assert got == dataclasses.replace(want, steps=5, optim=dataclasses.replace(want.optim, lr=0.5, b2=0.9))
  assert CONFIGS['large'].steps == 99


@pytest.mark.parametrize(
  'argv, says',
  [
    (['--config=tinny'], r"--config=tinny: no such config; did you mean 'tiny'\?"),
    (['--config=zzz'], r'no such config \(known: tiny, large\)'),
    (['--config.optim.lrr=1'], r"--config\.optim\.lrr: .*no such field; did you mean 'optim\.lr'\?"),
    (['--config.qqqqqq=1'], r"--config\.qqqqqq: config 'tiny' has no such field$"),
    (['--config.optim=adamw'], r'--config\.optim: .*it is a group of fields'),
    (['--config.steps=1.5'], r"config\.steps.*'1\.5' is not int"),
    (['--config.steps=none'], r"config\.steps.*'none' is not int"),
    (['--config.steps=True'], r"config\.steps.*'True' is not int"),
    (['--config.optim.lr=fast'], r"config\.optim\.lr.*'fast' is not float"),
    (['--config.shuffle=maybe'], r'config\.shuffle'),
    (['--config.mode=medium'], r"config\.mode.*'medium' is not fast\|slow"),
    (['--config.model.size=(1,2,3)'], r'config\.model\.size.*3 items: expected 2'),
    (['--config.model.size=(1,a)'], r"config\.model\.size.*'a' is not int"),
    (['--config.limit=many'], r"config\.limit.*'many' is not int\|none"),
    (['--config.optim.lr=-1'], r'lr=-1\.0: expected a positive number'),
    (['--config.model.heads=5'], r'heads=5: expected a divisor of width=32'),
    (['--workdri=/x'], r"Unknown command line flag 'workdri'.*Did you mean: workdir"),
    (['--process_id=1'], r'--coordinator_address, --num_processes and --process_id go together'),
    (['--distributed=maybe'], r'distributed'),
  ],
)
def test_a_bad_line_is_refused_in_one_line(argv, says):
  with pytest.raises(UsageError, match=says) as caught:
    parse(*argv)
  assert '\n' not in str(caught.value)


PROGRAM = textwrap.dedent('''
  """Trains a toy."""
  import sys
  sys.path.insert(0, {tests!r})
  from core import launch
  from test_launch import CONFIGS

  def main(config, workdir):
    import jax
    print(config.steps, workdir, jax.process_count())

  if __name__ == '__main__':
    launch.run(main, CONFIGS, default='tiny')
''')


def program(tmp_path, *argv):
  path = tmp_path / 'toy.py'
  path.write_text(PROGRAM.format(tests=str(pathlib.Path(__file__).parent)))
  env = {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': '/usr/bin:/bin'}
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, str(path), *argv], env=env, capture_output=True, text=True, timeout=60, check=False
  )
  return done, time.monotonic() - began


def test_a_program_runs_with_its_config_and_workdir(tmp_path):
  done, _ = program(tmp_path, '--config=large', '--config.steps=12', '--workdir=/w')
  assert done.stdout.split() == ['12', '/w', '1'], done.stderr
  assert '1 local and 1 global cpu devices' in done.stderr


def test_bad_usage_exits_with_2_and_one_line(tmp_path):
  done, _ = program(tmp_path, '--config.stepz=3')
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == "error: --config.stepz: config 'tiny' has no such field; did you mean 'steps'?\n"
  done, _ = program(tmp_path, 'stray')
  assert done.returncode == 2 and done.stderr == "error: 'stray': expected only flags\n"


def test_help_lists_every_field_with_its_meaning(tmp_path):
  done, seconds = program(tmp_path, '--help')
  assert done.returncode == 0 and 'Trains a toy.' in done.stdout and 'one of tiny, large' in done.stdout
  for path, _, value, meaning in launch.fields(CONFIGS['tiny']):
    assert f'  {path}: ' in done.stdout and f' = {value!r}' in done.stdout and meaning[:40] in done.stdout
  assert '--workdir' in done.stdout and '--coordinator_address' in done.stdout
  assert seconds < 10  # a generous bound for a loaded machine: about 2 s alone


def test_start_up_leaves_heavy_libraries_alone():
  code = (
    'import sys, core.training.steps, core.launch.job; print([m for m in ("transformers", "sklearn", "torch", '
    '"tensorboardX", "orbax", "grain", "matplotlib") if m in sys.modules])'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'
