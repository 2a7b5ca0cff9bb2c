"""What a call gives back, what a session keeps, and what happens when parts of the sandbox die."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from agents.sandbox import HarnessError, Limits, Pool
from agents.sandbox.capture import Capture
from tests.watchdog import HANG, ends

# Source, what is printed, the status.
ECHO = [
  ('1 + 1', '2\n', 'ok'),
  ('x = 5; x', '5\n', 'ok'),
  ('1; 2', '2\n', 'ok'),
  ('None', '', 'ok'),
  ('"a"', "'a'\n", 'ok'),
  ('print(3)\nx = 4', '3\n', 'ok'),
  ('x = [\n 1,\n 2]\nx', '[1, 2]\n', 'ok'),
  ('for i in range(2): i', '', 'ok'),
  ('__name__', "'__main__'\n", 'ok'),
  ('', '', 'ok'),
  ('# only words', '', 'ok'),
  ('exit(0)', '', 'ok'),
  ('import sys; sys.exit(4)', '', 'error'),
  ('10**5000', '', 'error'),
  ('print(1)\n%time x', '', 'error'),
  ('await f()', '', 'error'),
  ('import atexit\natexit.register(print, "end")\n"value"', "'value'\nend\n", 'ok'),
  ('import threading\nthreading.Timer(0.05, print, ["late"]).start()\n0', '0\nlate\n', 'ok'),
  ('def f():\n  return g()\nasync def g(): return 7\nimport asyncio\nasyncio.run(f())', '7\n', 'ok'),
  ('from concurrent.futures import ThreadPoolExecutor as T\nlist(T(2).map(abs, [-1, 2]))', '[1, 2]\n', 'ok'),
  (
    'import dataclasses, pickle\n@dataclasses.dataclass\nclass A: x: int\npickle.loads(pickle.dumps(A(3)))',
    'A(x=3)\n',
    'ok',
  ),
]
# Source, what stderr says.
ERRORS = [
  ('a = 1\nb = a / 0\n', 'ZeroDivisionError at line 2: division by zero\n    b = a / 0\n'),
  ('a = 1\n\nmissing', "NameError at line 3: name 'missing' is not defined\n    missing\n"),
  ('def f(x):\n  return x[3]\nf([])', 'IndexError at line 2: list index out of range\n    return x[3]\n'),
  ('import json\njson.loads("{")', 'JSONDecodeError at line 2: '),
  ('x = (', "SyntaxError at line 1: '(' was never closed\n    x = (\n"),
  ('raise KeyboardInterrupt', 'KeyboardInterrupt at line 1: \n    raise KeyboardInterrupt\n'),
  ('exit("bye")', 'bye\n'),
]


@pytest.fixture(scope='module')
def pool():
  with Pool(2, Limits(wall=3.0), profile='python') as pool:
    yield pool


@pytest.mark.parametrize(('code', 'printed', 'status'), ECHO)
def test_echo_of_the_last_expression(pool, code, printed, status):
  result = pool.run(code)
  assert (result.stdout, result.status) == (printed, status), result


@pytest.mark.parametrize(('code', 'text'), ERRORS)
def test_error_text(pool, code, text):
  result = pool.run(code)
  assert result.status == 'error'
  assert result.code == 1
  assert result.stderr.startswith(text), result.stderr


def test_last_expression_is_evaluated_once(pool):
  assert pool.run('calls = []\ndef f():\n  print("once")\n  return 1 / 0\nf()').stdout == 'once\n'


def test_input_and_files(pool):
  files = {'data/a.txt': 'text', 'helper.py': b'def twice(x): return 2 * x'}
  result = pool.run('import helper\nhelper.twice(input()), open("data/a.txt").read()', 'é\n', files)
  assert result.stdout == "('éé', 'text')\n", result
  assert pool.run('input()').stderr.startswith('EOFError')
  assert pool.run('import os\nos.listdir(".")').stdout == '[]\n'
  assert pool.run('import sys\nlen(sys.stdin.read())', 'x' * 10**7).stdout == '10000000\n'


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    ((3,), 'code'),
    (('1', 3), 'stdin'),
    (('1', '', {'/etc/x': ''}), 'relative'),
    (('1', '', {'a/../../x': ''}), 'relative'),
    (('1', '', {'a': 3}), 'files'),
    (('1', '', {'a': b'x' * (65 * 2**20)}), 'files'),
    (('1', '', {'': ''}), 'file name'),
  ],
)
def test_impossible_arguments_are_refused(pool, arguments, word):
  with pytest.raises(ValueError, match=word):
    pool.run(*arguments)


@pytest.mark.parametrize('wrong', [{'wall': 0}, {'memory': -1}, {'tasks': 1.5}, {'cpu': float('nan')}, {'wall': True}])
def test_impossible_limits_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    Limits(**wrong)


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match='profile'):
    Pool(1, profile='torch')
  with pytest.raises(ValueError, match='backend'):
    Pool(1, backend='chroot')


def test_output_keeps_head_and_tail(pool):
  result = pool.run('import os\nos.write(1, b"a" * 5000 + b"b" * 90000 + b"c" * 5000)', limits=Limits(output=2000))
  assert result.stdout.startswith('a' * 1000 + '\n[... ')
  assert result.stdout.endswith('c' * (1000 - len('100000\n')) + '100000\n')
  assert result.omitted == (100007 - 2000, 0)
  assert f'[... {100007 - 2000} bytes left out ...]' in result.stdout


@pytest.mark.parametrize('keep', [2, 10, 64])
def test_capture_is_head_and_tail_however_it_arrives(keep):
  rng = random.Random(0)
  for _ in range(200):
    data = bytes(rng.choices(b'abcdef', k=rng.randrange(100)))
    capture, at = Capture(keep), 0
    (reader, writer), open_ = os.pipe(), True
    while at < len(data):
      step = rng.randrange(1, 40)
      at += os.write(writer, data[at : at + step])
      open_ = capture.read(reader)
    os.close(writer)
    while open_:
      open_ = capture.read(reader)
    os.close(reader)
    head, *tail = map(bytes, capture.parts())
    assert capture.total == len(data)
    assert capture.omitted == max(0, len(data) - keep)
    assert (head, b''.join(tail)) == (data[: keep // 2], data[max(keep // 2, len(data) - keep // 2) :])


def test_processes_may_be_used(pool):
  code = 'import subprocess, sys\nsubprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout'
  result = pool.run(code)
  if pool.backend == 'landlock':
    assert result.status == 'error' and 'PermissionError' in result.stderr  # it forbids them
  else:
    assert result.stdout == "b'42\\n'\n"


SEARCH = """
import ctypes, gc, sys
backwards = {!r}                                     # the marker itself must not be in this call's own memory
frame, frames = sys._getframe(), []
while frame:
  frames.append(repr(dict(frame.f_locals)))
  frame = frame.f_back
found = any(backwards in text[::-1] for text in frames)
for page in sorted({{id(o) >> 12 for o in gc.get_objects(0) + gc.get_objects(1) + gc.get_objects(2)}}):
  found |= backwards.encode() in ctypes.string_at(page << 12, 4096)[::-1]
found
"""


def test_no_call_finds_what_an_earlier_one_had_or_printed():
  marker = 'the words of another'
  with Pool(1, profile='python') as pool:
    for _ in range(3):
      code = f'import sys\nprint(open("f").read(), input(), file=sys.stderr)\n"{marker}" * 3'
      assert marker in pool.run(code, marker, {'f': marker}).stdout
      assert pool.run(SEARCH.format(marker[::-1])).stdout == 'False\n'
    assert pool.run(f'x = "{marker}"\n' + SEARCH.format(marker[::-1])).stdout == 'True\n'


def test_processor_time_is_limited(pool):
  result = pool.run('while True: pass', limits=Limits(wall=30.0, cpu=1.0))
  assert result.status == 'timeout'
  assert 'processor' in result.reason
  assert result.cpu < 2


def test_session_keeps_state_and_survives_errors(pool):
  with pool.session() as session:
    first = session.run('x = 1\ndef f(): return x + int(input())')
    assert first.ok
    assert first.fresh
    assert session.run('1 / 0').status == 'error'
    assert session.run('exit(3)').code == 3
    second = session.run('x += 1\nopen("kept", "w").write("k")\nf()', '40')
    assert second.stdout == '42\n'
    assert not second.fresh
    assert session.run('open("kept").read()').stdout == "'k'\n"
    assert session.run('print(open("new").read())', files={'new': 'n'}).stdout == 'n\n'
    assert pool.run('x').status == 'error'
    slow = session.run('while True: pass', limits=Limits(wall=0.3))
    assert slow.status == 'timeout'
    lost = session.run('x')
    assert lost.fresh
    assert lost.status == 'error'
  with pytest.raises(ValueError, match='closed'):
    session.run('1')


HOSTILE_CELLS = {
  'forged end': 'import os\nos.write(3, bytes([0]) * 50)\nprint("a")',
  'closed channel': 'import os\nos.close(3)',
  'dead process': 'import os\nos._exit(9)',
  'dead child': 'import os\nif os.fork() == 0: os._exit(0)',
  'flooded channel': 'import os, threading\n'
  'threading.Thread(target=lambda: [os.write(3, b"x") for _ in range(9999)], daemon=True).start()',
  'stolen cell': 'import os, threading\nthreading.Thread(target=lambda: [os.read(3, 1) for _ in range(99)],'
  ' daemon=True).start()',
}


@pytest.mark.parametrize('name', HOSTILE_CELLS)
def test_hostile_cell_harms_only_its_session(pool, name):
  with pool.session() as session, pool.session() as other:
    assert other.run('y = 7').ok
    limits = Limits(wall=0.5)
    for _ in range(3):
      assert session.run(HOSTILE_CELLS[name], limits=limits).status != 'harness'
      assert session.run('1', limits=limits).status != 'harness'
    assert other.run('y').stdout == '7\n'
    assert pool.run('6 * 7').stdout == '42\n'


def stopped(pool) -> list[psutil.Process]:
  """The stopped processes of a pool."""
  family = psutil.Process(pool._seed.process.pid).children(recursive=True)
  return [process for process in family if process.status() == psutil.STATUS_STOPPED]


def test_what_a_cell_leaves_running_stands_still_between_cells(pool):
  with pool.session() as session:
    session.run(
      'import threading, time\nn = 0\ndef count():\n  global n\n  while True: n += 1; time.sleep(0.001)\n'
      'threading.Thread(target=count, daemon=True).start()'
    )
    assert int(session.run('n').stdout) > 0
    with ends():
      while not stopped(pool):
        time.sleep(0.01)


def test_sessions_are_counted():
  with Pool(1, profile='python', sessions=1) as pool:
    session = pool.session()
    with pytest.raises(HarnessError, match='sessions'):
      pool.session()
    session.close()
    pool.session().close()


def _first_good(pool) -> None:
  """Calls until one is answered well."""
  with ends():
    while pool.run('import sympy\nsympy.Integer(42)').stdout != '42\n':
      pass


@pytest.mark.slow
def test_a_zygote_with_sympy_is_replaced_without_importing_again():
  """Killed again and again, service comes back; only the death of the seed costs the imports."""
  with Pool(1) as pool:
    _first_good(pool)
    seed, rng, spent = psutil.Process(pool._seed.process.pid), random.Random(0), []
    for _ in range(6):
      family = seed.children(recursive=True)
      before = sum(seed.cpu_times()[:2])
      (family[0] if rng.random() < 0.7 else rng.choice(family)).kill()  # the zygote is process 1 of all the others
      _first_good(pool)
      spent.append(sum(seed.cpu_times()[:2]) - before)
    assert pool._seed.process.pid == seed.pid
    assert sum(spent) < 0.5, 'processor seconds of the seed: it has imported sympy again'
    seed.kill()
    with ends():
      while pool._seed.process.pid == seed.pid:  # a slot may outlive it for a moment
        pool.run('1')
    _first_good(pool)


def good_again(results: list) -> None:
  """Waits for ten more good answers."""
  seen = len(results)
  while sum(r.ok for r in results[seen:]) < 10:
    time.sleep(0.01)


def test_calls_are_answered_while_parts_are_killed():
  """Seed, zygote and slots die at random under load: each call is answered, and service comes back each time."""
  with Pool(2, profile='python') as pool:
    results, stop, rng = [], threading.Event(), random.Random(0)

    def load():
      while not stop.is_set():
        results.append(pool.run('6 * 7'))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
      thread.start()
    with ends():
      for _ in range(12):
        good_again(results)
        try:
          launcher = psutil.Process(pool._seed.process.pid)
          rng.choice([launcher, *launcher.children(recursive=True)]).kill()
        except psutil.NoSuchProcess:
          continue
      good_again(results)
    stop.set()
    for thread in threads:
      thread.join(HANG)
      assert not thread.is_alive()
    assert {r.status for r in results} <= {'ok', 'harness', 'error'}
    assert all(r.stdout == '42\n' for r in results if r.ok)
    assert pool.run('1').ok


def test_nothing_is_left_of_a_closed_pool():
  before = set(os.listdir('/proc/self/fd'))
  mounts = pathlib.Path('/proc/mounts').read_text()
  with Pool(2, profile='python') as pool, ThreadPoolExecutor(4) as threads:
    assert all(r.ok for r in threads.map(pool.run, ['1'] * 200))
    session = pool.session()
    session.run('1')
    launcher = psutil.Process(pool._seed.process.pid)
    family = [launcher, *launcher.children(recursive=True)]
    session.close()
  assert set(os.listdir('/proc/self/fd')) == before
  assert pathlib.Path('/proc/mounts').read_text() == mounts
  psutil.wait_procs(family, timeout=3)
  assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize('backend', [None, 'landlock'])
def test_a_killed_application_leaves_nothing(tmp_path, backend):
  code = (
    'import sys, time; sys.path.insert(0, ""); from agents.sandbox import Pool; '
    f'p = Pool(1, profile="python", backend={backend!r}); '
    'p.run("1"); s = p.session(); s.run("1"); print(p._seed.process.pid, flush=True); time.sleep(60)'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env=os.environ | {'TMPDIR': str(tmp_path)}
  ) as owner:
    launcher = psutil.Process(int(owner.stdout.readline()))
    family = [launcher, *launcher.children(recursive=True)]
    assert len(family) >= 3
    owner.send_signal(signal.SIGKILL)
  _, alive = psutil.wait_procs(family, timeout=5)
  assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
  assert not list(tmp_path.iterdir())


def test_scratch_folders_go_with_their_calls(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  with Pool(1, Limits(wall=1.0), profile='python', backend='landlock') as pool, pool.session() as session:
    session.run('1')
    assert pool.run('import os\nopen("x", "w").write("y" * 9)\nos.mkdir("d")\nos.environ["HOME"] == os.getcwd()').ok
    pool.run('while True: pass')
    assert len([p for p in tmp_path.rglob('*') if p.is_dir()]) == 3, 'the pool, the zygote, the session'
  assert not list(tmp_path.iterdir())


def test_a_command_may_be_put_before_the_zygote():
  with Pool(1, profile='python', wrap=('nice', '-n', '3')) as pool:
    assert pool.run('6 * 7').stdout == '42\n'
    assert psutil.Process(pool._seed.process.pid).nice() == min(os.nice(0) + 3, 19)


def test_refusal_says_why():
  from agents.sandbox.isolation import selftest

  def broken(backend):
    raise OSError(f'{backend} is off')

  with pytest.raises(HarnessError, match=r'namespaces is off.*landlock is off.*rlimits'):
    selftest.choose(None, broken)


def test_self_test_refuses_a_backend_that_does_not_hold(monkeypatch):
  from agents.sandbox.isolation import selftest

  monkeypatch.setattr(selftest, 'AUTOMATIC', ('rlimits',))
  with pytest.raises(HarnessError, match='reads a file of the host'):
    Pool(1, profile='python')


def test_result_is_plain_data(pool):
  import dataclasses

  told = dataclasses.asdict(pool.run('1'))
  assert json.loads(json.dumps(told)) == told | {'omitted': [0, 0], 'left': []}
