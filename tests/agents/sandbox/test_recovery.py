"""Parts of the sandbox die or are closed: service comes back, and nothing is left on the host."""

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

from agents.sandbox import Limits, Pool
from tests.watchdog import HANG, ends


def first_good(pool) -> None:
  """Calls until one is answered well."""
  with ends():
    while pool.run('import sympy\nsympy.Integer(42)').stdout != '42\n':
      pass


@pytest.mark.slow
def test_a_zygote_with_sympy_is_replaced_without_importing_again():
  """Killed again and again, service comes back; only the death of the seed costs the imports."""
  with Pool(1) as pool:
    first_good(pool)
    seed, rng, spent = psutil.Process(pool._seed.process.pid), random.Random(0), []
    for _ in range(6):
      family = seed.children(recursive=True)
      before = sum(seed.cpu_times()[:2])
      (family[0] if rng.random() < 0.7 else rng.choice(family)).kill()  # the zygote is process 1 of all the others
      first_good(pool)
      spent.append(sum(seed.cpu_times()[:2]) - before)
    assert pool._seed.process.pid == seed.pid
    assert sum(spent) < 0.5, 'processor seconds of the seed: it has imported sympy again'
    seed.kill()
    with ends():
      while pool._seed.process.pid == seed.pid:  # a slot may outlive it for a moment
        pool.run('1')
    first_good(pool)


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
