"""What a call returns: the value of the last expression, errors, output, and refusals of impossible arguments."""

import dataclasses
import json
import os
import random

import pytest

from agents.sandbox import Limits, Pool
from agents.sandbox.capture import Capture

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


def test_result_is_plain_data(pool):
  told = dataclasses.asdict(pool.run('1'))
  assert json.loads(json.dumps(told)) == told | {'omitted': [0, 0], 'left': []}
