"""Command lines become configs, and bad ones become one clear line."""

import dataclasses
import importlib.metadata
import itertools
import logging
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap
from typing import Literal, Optional

import pytest

from core.launch import command, extras, fields
from core.launch import job as launch
from core.launch.errors import UsageError
from core.launch.fields import field
from core.training.optim import Optim

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


OPTIMS = {'plain': Optim(), 'muon': Optim(name='muon', lr=0.02)}


@dataclasses.dataclass(frozen=True)
class Config:
  model: Model = Model()
  optim: Optim = field(Optim(), 'the update rule', choices=OPTIMS)
  steps: int = field(10, 'training steps')
  name: str = field('x', 'a label')
  limit: Optional[int] = field(None, 'most examples')  # noqa: UP045 (both spellings must work)
  mode: Literal['fast', 'slow'] = field('fast', 'how')
  shuffle: bool = field(True, 'shuffle the data')


CONFIGS = {'tiny': Config(), 'large': dataclasses.replace(Config(), model=Model(width=64), steps=99)}


def parse(*argv):
  return launch.parse(CONFIGS, 'tiny', ['prog', *argv]).config


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


def test_the_order_of_the_flags_has_no_effect():
  flags = ['--config=large', '--config.steps=5', '--config.optim=muon', '--config.optim.b2=0.9', '--workdir=w']
  want = parse(*flags)
  assert want.optim == dataclasses.replace(OPTIMS['muon'], b2=0.9) and want.steps == 5 and want.model.width == 64
  for order in itertools.permutations(flags):
    assert parse(*order) == want


@dataclasses.dataclass(frozen=True)
class Options:
  size: Model = Model()
  text: str | None = field(None, 'a text')
  number: int = field(3, 'a number', low=1, high=9)
  share: float = field(0.5, 'a share', low=0, high=1)
  fast: bool = field(False, 'a switch')
  kind: Literal['a', 'b'] | None = field(None, 'a choice')
  names: tuple[str, ...] = field((), 'names', repeated=True)
  listed: tuple[str, ...] = field((), 'a list')
  files: tuple[str, ...] = field((), 'files', positional=True)

  def __post_init__(self):
    if self.fast and self.kind == 'b':
      raise ValueError('--fast and --kind=b: give one of them')


def test_plain_flags_set_the_fields_of_a_dataclass():
  argv = ['p', 'a', '--text=none', '--number', '4', '--fast', '--kind=a', '--names=x,y', '--names=z', '--listed=1,b']
  argv += ['--size.width=48', 'b']
  got = command.parse(argv, Options)
  assert got == Options(Model(width=48), 'none', 4, 0.5, True, 'a', ('x,y', 'z'), ('1', 'b'), ('a', 'b'))
  assert command.parse(['p', '--nofast', '--', '--text'], Options) == Options(files=('--text',))


@pytest.mark.parametrize(
  'argv, says',
  [
    (['--number=0'], 'number=0: expected 1 or more'),
    (['--number=10'], 'number=10: expected at most 9'),
    (['--share=nan'], 'share=nan: expected 0 or more'),
    (['--numbr=1'], 'numbr'),
    (['--kind=c'], "'c' is not a|b"),
    (['--fast', '--kind=b'], 'give one of them; see --help'),
    (['--size.heads=5'], 'heads=5: expected a divisor'),
  ],
)
def test_bad_plain_flags_are_status_2_and_one_line(argv, says, capsys):
  assert command.run(['p', *argv], 'Doc.', Options, lambda options: pytest.fail('worked')) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and err.count('\n') == 1 and says in err


class Refused(RuntimeError):
  """An error that a program declares to be its user's."""


@pytest.mark.parametrize(
  'error, status, says',
  [
    (ValueError('bad\nvalue'), 1, 'error: bad value\n'),
    (FileNotFoundError(2, 'No such file', 'x'), 1, "error: [Errno 2] No such file: 'x'\n"),
    (Refused('no'), 1, 'error: no\n'),
    (UsageError('no'), 2, 'error: no\n'),
    (ModuleNotFoundError('', name='mcp.types'), 1, "pip install -e '.[agents]'\n"),
    (ModuleNotFoundError('', name='flax'), 1, 'pip install -e .\n'),
    (KeyboardInterrupt(), 130, 'stopped\n'),
  ],
)
def test_how_a_program_ends(error, status, says, capsys):
  def work(options):
    raise error

  assert command.run(['p'], 'Doc.', Options, work, errors=(Refused,), interrupted='stopped') == status
  out, err = capsys.readouterr()
  assert out == '' and err.endswith(says) and err.count('\n') == 1


def test_a_bug_is_not_hidden():
  with pytest.raises(KeyError):
    command.run(['p'], 'Doc.', Options, lambda options: {}['x'])


def requirements(monkeypatch) -> dict[str, list[str]]:
  """The extras of setup.py."""
  monkeypatch.setattr('setuptools.setup', lambda **_: None)
  return runpy.run_path(str(ROOT / 'setup.py'))['EXTRAS']


def test_the_table_of_extras_is_that_of_setup(monkeypatch):
  listed = requirements(monkeypatch)
  name = lambda text: re.split(r'[<>=\[]', text)[0].lower().replace('_', '-')
  brings = {extra: {name(text) for text in texts} for extra, texts in listed.items()}
  dists = importlib.metadata.packages_distributions()
  source = {m: {name(d) for d in dists.get(m, [m])} for m in extras.MODULES}
  for module, names in extras.MODULES.items():
    assert set(names) == {e for e, d in brings.items() if d & source[module]} - {'test'}, module
  covered = set().union(*source.values()) | {'jax'}
  for extra in brings.keys() - {'test', 'cuda', 'tpu', 'plan', 'notebooks'}:
    assert brings[extra] <= covered, extra


def test_an_extra_is_named_after_the_program_that_misses_it():
  assert extras.extra('httpx', 'bench.run') == 'bench' and extras.extra('httpx', 'agents.run') == 'agents'
  assert extras.extra('httpx') == 'agents' and extras.extra('math_verify', 'rl.train') == 'rl'


@pytest.mark.parametrize(
  'argv, says',
  [
    (['--config=tinny'], r"--config=tinny: no such config; did you mean 'tiny'\?"),
    (['--config=zzz'], r'no such config \(known: tiny, large\)'),
    (['--config.optim.lrr=1'], r"--config\.optim\.lrr: .*no such field; did you mean 'optim\.lr'\?"),
    (['--config.qqqqqq=1'], r"--config\.qqqqqq: config 'tiny' has no such field$"),
    (['--config.model=large'], r'--config\.model: .*it is a group of fields'),
    (['--config.optim=mun'], r"--config\.optim=mun: no such choice; did you mean 'muon'\? \(known: plain, muon\)"),
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
  from core.launch import job
  from test_launch import CONFIGS

  def main(config, workdir):
    import jax
    print(config.steps, workdir, jax.process_count())

  if __name__ == '__main__':
    job.run(main, CONFIGS, default='tiny')
''')


def program(tmp_path, *argv):
  path = tmp_path / 'toy.py'
  path.write_text(PROGRAM.format(tests=str(pathlib.Path(__file__).parent)))
  env = {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': '/usr/bin:/bin'}
  command = [sys.executable, str(path), *argv]
  return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_program_runs_with_its_config_and_workdir(tmp_path):
  done = program(tmp_path, '--config=large', '--config.steps=12', '--workdir=/w')
  assert done.stdout.split() == ['12', '/w', '1'], done.stderr
  assert '1 local and 1 global cpu devices' in done.stderr


@pytest.mark.slow
def test_bad_usage_exits_with_2_and_one_line(tmp_path):
  done = program(tmp_path, '--config.stepz=3')
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == "error: --config.stepz: config 'tiny' has no such field; did you mean 'steps'?\n"
  done = program(tmp_path, 'stray')
  assert done.returncode == 2 and done.stderr == "error: 'stray': expected only flags\n"


@pytest.mark.slow
def test_help_lists_every_field_with_its_meaning(tmp_path):
  done = program(tmp_path, '--help')
  assert done.returncode == 0 and 'Trains a toy.' in done.stdout and 'one of tiny, large' in done.stdout
  for leaf in fields.leaves(CONFIGS['tiny']):
    assert (
      f'  {leaf.name}: ' in done.stdout and f' = {leaf.value!r}' in done.stdout and leaf.meaning[:40] in done.stdout
    )
  assert '--workdir' in done.stdout and '--coordinator_address' in done.stdout


@pytest.mark.slow
def test_start_up_leaves_heavy_libraries_alone():
  code = (
    'import sys, core.training.steps, core.launch.job; print([m for m in ("transformers", "sklearn", "torch", '
    '"tensorboardX", "orbax", "grain", "matplotlib") if m in sys.modules])'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
  ('path', 'level', 'kept'),
  [
    ('/lib/jax/_src/xla_bridge.py', logging.INFO, False),  # that there is no TPU
    ('/lib/jax/_src/xla_bridge.py', logging.WARNING, True),
    ('/lib/orbax/checkpoint/handler.py', logging.INFO, False),
    ('/lib/core/training/run.py', logging.INFO, True),
  ],
)
def test_what_libraries_say_below_a_warning_is_not_logged(path, level, kept):
  record = logging.LogRecord('absl', level, path, 1, 'text', (), None)
  assert launch._worth_reading(record) == kept
