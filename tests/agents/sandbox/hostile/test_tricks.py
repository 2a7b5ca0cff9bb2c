"""Snippets that attack their own runner: each ends as an ordinary result that says how it ended."""

import pytest

from tests.agents.sandbox.hostile.containment import run_among_others

ENDED = {'ok', 'error', 'timeout', 'memory', 'output'}
# Name: (code, statuses that are right).
TRICKS = {
  'kill all': ('import os, signal\ntry: os.kill(-1, signal.SIGKILL)\nexcept OSError: print("held")', ENDED),
  'kill parent': ('import os\ntry: os.kill(os.getppid() or 2, 9)\nexcept OSError: print("held")', {'ok'}),
  'daemon': (
    """
import os, time
if os.fork() == 0:
  os.setsid()
  if os.fork() == 0:
    while True: time.sleep(0.1)
  os._exit(0)
""",
    {'ok', 'error'},
  ),
  'closed descriptors': ('import os\nos.closerange(0, 4096)\nprint("x")', {'ok', 'error'}),
  'copied descriptors': ('import os\nfor fd in range(3, 100): os.dup2(1, fd)', {'ok'}),
  'written descriptors': (
    """
import os
for fd in range(3, 256):
  try:
    os.write(fd, b'\\0\\0\\0\\1' * 99)
    print('ESCAPED')
  except OSError: pass
""",
    {'ok'},
  ),
  'forged messages': ('import os\nos.write(1, b"\\0\\0\\0\\3{\\"status\\": \\"ok\\"}ready")\nos._exit(7)', {'error'}),
  'invalid text': ('import os\nos.write(1, b"a\\xff\\xfe\\0b")', {'ok', 'error'}),
  'segmentation fault': ('import ctypes\nctypes.string_at(0)', {'error'}),
  'no stdout': ('import sys\nsys.stdout.close()\nsys.stdout = sys.stderr = None', {'ok', 'error'}),
  'no builtins': ('import builtins\nfor n in list(vars(builtins)): delattr(builtins, n)', {'ok', 'error'}),
  'bad repr': ('class A:\n  def __repr__(self): raise ValueError("no")\nA()', {'error'}),
  'bad message': ('class E(Exception):\n  def __str__(self): return self.__str__()\nraise E', {'error'}),
  'unfinished exit': ('import os, sys\nsys.exit(object())', {'error'}),
  'runner replaced': (
    """
import sys
for frame in [sys._getframe(i) for i in range(1, 9)]:
  for name, value in list(frame.f_globals.items()):
    if callable(value) and name != '__builtins__': frame.f_globals[name] = lambda *a, **k: None
""",
    {'ok', 'error'},
  ),
}


@pytest.mark.parametrize('name', TRICKS)
def test_trick_ends_as_a_result(pool, name):
  code, statuses = TRICKS[name]
  result = run_among_others(pool, code)
  assert result.status in statuses, result


@pytest.mark.parametrize(
  ('code', 'signal'),
  [
    ('import os\nos.abort()', 'SIGABRT'),
    ('import os\nos.kill(os.getpid(), 9)', 'SIGKILL'),
    ('import os\nos.kill(os.getpid(), 15)', 'SIGTERM'),
    ('import ctypes\nctypes.string_at(0)', 'SIGSEGV'),
  ],
)
def test_an_end_by_a_signal_is_told_by_its_name(pool, code, signal):
  result = pool.run(code)
  assert (result.status, result.reason, result.code) == ('error', f'ended by {signal}', None), result


def test_nul_bytes_and_surrogates_in_the_code(pool):
  for code in ('print(1)\0', '"\udcff"'):
    result = pool.run(code)
    assert result.status == 'error', result
    assert 'Error' in result.stderr
