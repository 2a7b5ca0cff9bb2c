"""Snippets that use up time, memory, disk, processes or output: each ends in time, and no other call suffers."""

import pytest

from tests.agents.sandbox.hostile.containment import IGNORE_ALL, TRY, run_among_others

# Name: (code, statuses that are right).
BOMBS = {
  'fork bomb': ('import os\nwhile True: os.fork()', {'error', 'timeout'}),
  'stubborn fork bomb': (
    IGNORE_ALL
    + """
while True:
  try:
    if os.fork() == 0: os.setsid()
  except OSError: pass
""",
    {'timeout'},
  ),
  'memory': ('a = []\nwhile True: a.append(bytearray(2**20))', {'error', 'memory'}),
  'memory at once': ('bytearray(10**11)', {'error'}),
  'memory mapped': (
    """
import mmap
kept = []
while True:
  kept.append(mmap.mmap(-1, 2**24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
  kept[-1].write(b'x' * 2**24)
""",
    {'error', 'memory'},
  ),
  'memory shared': ('import mmap\nwhile True: mmap.mmap(-1, 2**24).write(b"x" * 2**24)', {'error', 'memory'}),
  'memory of a family': (
    """
import os, time
for _ in range(8):
  if os.fork() == 0:
    a = b'x' * (60 * 2**20)
    time.sleep(60)
time.sleep(60)
""",
    {'memory', 'error'},
  ),
  'memory file': ('import os\nfd = os.memfd_create("x")\nwhile True: os.write(fd, b"x" * 2**20)', {'error'}),
  'system v memory': (TRY.format('assert libc.shmget(0, 2**20, 0o1600) >= 0'), {'ok'}),
  'disk': ('f = open("x", "wb")\nwhile True: f.write(b"x" * 2**20)', {'error'}),
  'disk in many files': (
    """
i = 0
while True:
  i += 1
  with open(f'{i}', 'wb') as f: f.write(b'x' * 2**16)
""",
    {'error'},
  ),
  'inodes': ('import os\ni = 0\nwhile True:\n  i += 1\n  os.mkdir(str(i))', {'error'}),
  'descriptors': ('a = []\nwhile True: a.append(open("/dev/null"))', {'error'}),
  'output': ('while True: print("x" * 10**5)', {'output', 'timeout'}),
  'output on both': (
    'import os\nwhile True: os.write(1, b"\\xff" * 999); os.write(2, b"\\0" * 999)',
    {'output', 'timeout'},
  ),
  'thread flood': (
    'import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()',
    {'error', 'timeout'},
  ),
  'small threads': (
    """
import threading, time
threading.stack_size(32768)
while True:
  try: threading.Thread(target=time.sleep, args=(9,)).start()
  except RuntimeError: pass
""",
    {'error', 'timeout'},
  ),
  'huge integer': ('10**10**10', {'error', 'timeout'}),
  'huge product': ('x = 3**10**7\nwhile True: x * x', {'error', 'timeout'}),
  'recursion': ('import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()', {'error', 'timeout', 'memory'}),
  'recursion in C': (
    'import sys\nsys.setrecursionlimit(10**9)\na = []\nfor _ in range(10**6): a = [a]\nrepr(a)',
    {'error', 'timeout', 'memory'},
  ),
  'parser': ('(' * 10**5, {'error'}),
  'busy loop, signals ignored': (IGNORE_ALL + 'while True: pass', {'timeout'}),
  'stops itself': ('import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(9)', {'timeout'}),
  'exit that never ends': ('import atexit, time\natexit.register(time.sleep, 60)', {'timeout'}),
  'thread that stays': ('import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()', {'timeout'}),
  'socket buffers': (
    """
import os, socket, time
for _ in range(12):
  if os.fork() == 0: break
kept = []
while True:
  try:
    for end in socket.socketpair():
      end.setblocking(False)
      kept.append(end)
      while True: end.send(b'x' * 65536)
  except BlockingIOError: continue
  except OSError: time.sleep(9)
""",
    {'memory', 'error'},
  ),
  'pipe buffers': (
    """
import os, time
for _ in range(16):
  if os.fork() == 0: break
kept = []
while True:
  try:
    kept.append(os.pipe())
    os.set_blocking(kept[-1][1], False)
    while True: os.write(kept[-1][1], b'x' * 65536)
  except BlockingIOError: continue
  except OSError: time.sleep(9)
""",
    {'memory', 'error', 'timeout'},
  ),
  'files removed while open': (
    """
import os
kept = []
while True:
  kept.append(open('f', 'wb', buffering=0))
  os.unlink('f')
  kept[-1].write(b'x' * 2**20)
""",
    {'error'},
  ),
  'record locks without end': (
    """
import fcntl
with open('f', 'w') as f:
  for i in range(10**7, 0, -2): fcntl.lockf(f, fcntl.LOCK_EX, 1, i)
""",
    {'error'},
  ),
  'raised limits': (
    TRY.format('import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); assert 0').replace(
      'OSError', 'OSError, ValueError'
    )
    + 'a = bytearray(10**10)',
    {'error'},
  ),
}


@pytest.mark.parametrize('name', BOMBS)
def test_bomb_is_contained(pool, name):
  code, statuses = BOMBS[name]
  result = run_among_others(pool, code)
  assert result.status in statuses, result


def test_processes_that_end_do_not_count_as_full_of_sockets(pool):
  """Their descriptors cannot be listed for a moment, which must not make them look as large as they may get."""
  code = """
import os, time
until = time.monotonic() + 1
while time.monotonic() < until:
  children = []
  for _ in range(8):
    child = os.fork()
    if not child: os._exit(0)
    children.append(child)
  for child in children: os.waitpid(child, 0)
'done'
"""
  result = pool.run(code)
  if pool.backend == 'landlock':  # no other processes
    assert result.status == 'error', result
  else:
    assert result.stdout == "'done'\n" or result.status == 'timeout', result
