"""What a session keeps between its cells, and that a hostile cell harms no other session."""

import time

import psutil
import pytest

from agents.sandbox import HarnessError, Limits, Pool
from tests.watchdog import ends


@pytest.fixture(scope='module')
def pool():
  with Pool(2, Limits(wall=3.0), profile='python') as pool:
    yield pool


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
