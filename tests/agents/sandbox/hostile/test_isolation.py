"""What ordinary code may use within its limits, and that one call leaves nothing to the next."""


def test_a_pool_of_processes_and_its_shared_memory(pool):
  code = """
import multiprocessing, os
from multiprocessing import shared_memory
with multiprocessing.Pool(2) as workers: print(workers.map(abs, [-1, 2, -3]))
block = shared_memory.SharedMemory(create=True, size=8)
child = multiprocessing.Process(target=lambda: block.buf.__setitem__(0, 7))
child.start()
child.join()
print(block.buf[0])
block.unlink()
os.listdir('.')
"""
  result = pool.run(code)
  if pool.backend == 'landlock':  # no other processes
    assert result.status == 'error', result
  else:
    assert result.stdout == '[1, 2, 3]\n7\n[]\n', result


def test_databases_work_without_locks_of_the_kernel(pool):
  code = """
import sqlite3
with sqlite3.connect('a.db') as base: base.execute('create table t (x)').execute('insert into t values (42)')
sqlite3.connect('a.db').execute('select x from t').fetchall()
"""
  assert pool.run(code).stdout == '[(42,)]\n', pool.run(code)


def test_changed_modules_do_not_reach_the_next_call(pool):
  change = """
import builtins, json, math, numpy, sys, os
math.pi = 3; json.dumps = None; numpy.sum = None; builtins.len = lambda x: 7; sys.path.clear(); sys.modules.clear()
os.environ['LEFT'] = 'x'; open('left', 'w').write('x')
"""
  for _ in range(4):
    assert pool.run(change).ok
  for _ in range(4):
    result = pool.run(
      'import json, math, numpy, os\n(math.pi > 3.1, json.dumps([1]), int(numpy.sum([1, 2])), '
      'len("ab"), os.environ.get("LEFT"), os.listdir("."))'
    )
    assert result.stdout == "(True, '[1]', 3, 2, None, [])\n", result


def test_temporary_files_and_folders_are_the_calls_own(pool):
  code = 'import os, tempfile\nwith tempfile.NamedTemporaryFile("w") as f, tempfile.TemporaryDirectory() as d: pass\n'
  result = pool.run(code + 'os.path.dirname(f.name) == tempfile.gettempdir() == os.environ["TMPDIR"] == os.getcwd()')
  assert result.stdout == 'True\n', result


def test_random_numbers_differ_between_calls(pool):
  code = 'import random, numpy\nprint(random.random(), numpy.random.rand())'
  first, second = (pool.run(code).stdout.split() for _ in range(2))
  assert first[0] != second[0]
  assert first[1] != second[1]
