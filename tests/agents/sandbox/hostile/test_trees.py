"""Folders of hostile code are measured and removed, by root and by a user without privileges, or it is told why not."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap

import pytest

from agents.sandbox import Pool
from agents.sandbox.seed import Seed
from agents.sandbox.watch import trees
from tests.agents.sandbox.hostile.containment import kernel_has
from tests.agents.sandbox.hostile.trees import TREES

NOBODY = 65534
ROOT = pathlib.Path(__file__).resolve().parents[4]
BOTH = pytest.mark.parametrize('user', ['this user', 'nobody'])


@pytest.fixture
def folder():
  """A folder that anybody can reach, unlike pytest's; in memory if possible, since disks are slow to remove folders."""
  made = tempfile.mkdtemp(prefix='trees-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
  os.chmod(made, 0o755)
  yield pathlib.Path(made)
  trees.remove(made)


def python_for(user: str, folder: pathlib.Path) -> list[str]:
  """The command of this Python, as this user or as nobody; for nobody in a place that nobody can reach.

  Skips where only root could become nobody. The temporary files of `nobody` go to folder/tmp.
  """
  if user != 'nobody':
    return [sys.executable]
  if os.geteuid() != 0 or not shutil.which('setpriv'):
    pytest.skip('only root can become nobody')
  base, packages = folder / 'base', folder / 'venv' / 'lib' / f'python3.{sys.version_info.minor}' / 'site-packages'
  for made in (base, packages, folder / 'venv' / 'bin'):
    made.mkdir(parents=True, exist_ok=True)
  executable = base / 'bin' / f'python3.{sys.version_info.minor}'
  (folder / 'venv' / 'pyvenv.cfg').write_text(f'home = {executable.parent}\n')
  (folder / 'venv' / 'bin' / 'python').symlink_to(executable)
  installed = pathlib.Path(pytest.__file__).parents[1]
  sources = [sys.base_prefix, str(base), str(installed), str(packages)]
  script = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'
  drop = ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', '--inh-caps=-all']
  python = str(folder / 'venv' / 'bin' / 'python')
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', *sources, *drop, python]


def run(user: str, folder: pathlib.Path, *arguments: str) -> str:
  """What Python prints for these arguments."""
  temporary = folder / 'tmp'
  temporary.mkdir(exist_ok=True)
  if user == 'nobody':
    shutil.chown(temporary, NOBODY, NOBODY)
  command = [*python_for(user, folder), *arguments]
  environment = os.environ | {'TMPDIR': str(temporary), 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}
  if user == 'nobody':
    environment['LD_LIBRARY_PATH'] = str(folder / 'base' / 'lib')  # of a Python whose own library is a shared one
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  return done.stdout


@BOTH
@pytest.mark.parametrize('backend', ['namespaces', 'landlock', 'rlimits'])
def test_a_hostile_folder_is_one_calls_own_fault_and_nothing_is_left(user, backend, folder):
  if backend != 'rlimits' and not kernel_has(backend):
    pytest.skip(f'this kernel has no {backend} for us')
  report = json.loads(run(user, folder, '-m', 'tests.agents.sandbox.hostile.trees', backend))
  assert report['host'] == []
  for name, (status, reason, left, same_slot) in report['told'].items():
    assert status in ('ok', 'error'), (name, status, reason)
    assert left == []
    assert same_slot, f'{name}: the slot was replaced'
    if backend != 'namespaces':  # there the kernel limits the folder
      assert TREES[name][1] in reason, (name, status, reason)


BUILD = """
  import os, sys
  os.mkdir('top')
  os.chdir('top')
  os.makedirs('empty')
  for i in range(50): open(f'f{i}', 'w').write('x' * i)
  os.symlink('/', 'link')
  for name in ('closed', 'unreadable', 'unwritable'):
    os.makedirs(f'{name}/a/b')
    open(f'{name}/a/f', 'w').close()
  for _ in range(1100):
    os.mkdir('d')
    os.chdir('d')
    if _ % 100 == 0: os.chmod('.', 0o300)
  os.chdir(sys.argv[1] + '/top')
  os.chmod('closed', 0)
  os.chmod('unreadable', 0o300)
  os.chmod('unwritable/a', 0o500)
  os.chmod('unwritable', 0o500)
  from agents.sandbox.watch import trees
  print(trees.remove(sys.argv[1] + '/top'), os.path.exists(sys.argv[1] + '/top'))
"""


@BOTH
def test_every_tree_of_our_own_is_removed(user, folder):
  place = folder / 'tmp'
  code = f'import os; os.chdir({str(place)!r})\n' + textwrap.dedent(BUILD)
  assert run(user, folder, '-c', code, str(place)) == '[] False\n'


def test_removal_does_not_follow_links(folder):
  outside = folder / 'outside'
  outside.mkdir()
  (outside / 'kept').touch()
  (folder / 'top' / 'a').mkdir(parents=True)
  (folder / 'top' / 'a' / 'link').symlink_to(outside)
  (folder / 'top' / 'link').symlink_to(outside / 'kept')
  assert trees.remove(str(folder / 'top')) == []
  assert (outside / 'kept').exists()
  assert trees.remove(str(folder / 'top')) == [], 'nothing to do'


def test_what_belongs_to_another_user_is_reported(folder):
  """Root's folder with a file in it, within one of nobody's: nobody cannot remove it, and says so once."""
  if os.geteuid() != 0:
    pytest.skip('needs two users')
  owned = folder / 'tmp' / 'top' / 'a' / 'of root'
  owned.mkdir(parents=True)
  (owned / 'file').touch()
  for path in (folder / 'tmp' / 'top', folder / 'tmp' / 'top' / 'a'):
    shutil.chown(path, NOBODY, NOBODY)
  code = 'import sys; from agents.sandbox.watch import trees; print(*trees.remove(sys.argv[1]), sep="\\n")'
  told = run('nobody', folder, '-c', code, str(folder / 'tmp' / 'top')).splitlines()
  assert len(told) == 1
  assert told[0].endswith('of root: Permission denied') or told[0].endswith('of root: Operation not permitted'), told


@BOTH
def test_what_cannot_be_measured_does_not_count_as_nothing(user, folder):
  place = folder / 'tmp'
  code = f"""
    import os
    from agents.sandbox.watch import trees
    os.chdir({str(place)!r})
    os.makedirs('readable/a')
    open('readable/a/f', 'wb').write(b'x' * 10**6)
    size, count = trees.usage('readable', 100)
    print(size >= 10**6, count)
    print(trees.usage('readable', 1)[1] > 1)
    os.makedirs('secret/a')
    os.chmod('secret/a', 0o300)
    open('secret/a/f', 'wb').write(b'x' * 10**6)
    try: print(trees.usage('secret', 100)[0] >= 10**6)
    except trees.Unwatchable as error: print(error)
    os.makedirs('/'.join(['deep'] + ['d'] * {trees.DEEPEST}))
    try: trees.usage('deep', 10**6)
    except trees.Unwatchable as error: print(error)
  """
  readable, more, secret, deep = run(user, folder, '-c', textwrap.dedent(code)).splitlines()
  assert (readable, more) == ('True 2', 'True')
  assert secret == 'True' or secret == 'a: Permission denied'
  assert (secret == 'True') == (user != 'nobody' and os.geteuid() == 0)
  assert 'nested' in deep


def test_what_could_not_be_removed_is_in_the_result_and_close_logs_it(monkeypatch, caplog, folder):
  """The slot inherits a removal that fails, the pool's own works again later."""
  (folder / 'tmp').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(folder / 'tmp'))
  monkeypatch.setattr(Seed, 'close', lambda seed, close=Seed.close: [*close(seed), 'a folder: no reason'])
  with Pool(1, profile='python', backend='rlimits') as pool:
    code = 'import os, subprocess\nos.mkdir("d")\nsubprocess.run(["chattr", "+i", "d"], check=True)'
    assert pool.run('1').left == ()
    result = pool.run(code)
    if result.ok:  # an immutable folder, where the file system has them
      assert len(result.left) == 1 and 'not permitted' in result.left[0]
      subprocess.run(['chattr', '-R', '-i', str(folder)], check=False)
  assert 'not removed: a folder: no reason' in caplog.text
  assert not list((folder / 'tmp').iterdir())


def test_usage_of_a_tree_that_changes_is_an_answer(folder):
  """Folders appear, vanish and become files under the walk; each answer is a count."""
  code = f"""
import os, shutil
os.chdir({str(folder)!r})
while True:
  os.makedirs('t/a/b/c', exist_ok=True)
  shutil.rmtree('t/a')
  open('t/a', 'w').close()
  os.unlink('t/a')
"""
  (folder / 't').mkdir()
  with subprocess.Popen([sys.executable, '-c', code]) as changing:
    counts = {trees.usage(str(folder / 't'), 100)[1] for _ in range(3000)}
    changing.kill()
  assert counts <= {0, 1, 2, 3}
