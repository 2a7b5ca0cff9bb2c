"""Hostile snippets: every one ends as an ordinary result in time, reaches nothing, and disturbs nobody."""

import ctypes
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import threading
import time

import psutil
import pytest

from agents.sandbox import Limits, Pool
from tests.watchdog import HANG

LIMITS = Limits(wall=1.5, cpu=2.0, memory=128 * 2**20, tasks=24, disk=16 * 2**20, inodes=256, flood=8 * 2**20)
IGNORE_ALL = """
import os, signal
for s in range(1, 65):
  try: signal.signal(s, signal.SIG_IGN)
  except (OSError, ValueError): pass
"""
# Prints ESCAPED if the statement succeeds.
TRY = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
try:
  {}
  print('ESCAPED')
except (OSError, AssertionError) as error:
  print('held', type(error).__name__)
"""
ENDED = {'ok', 'error', 'timeout', 'memory', 'output'}

# Name: (code, statuses that are right). A code may name {secret}, {folder}, {listener} of the host.
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
REACHES = {
  'tcp': TRY.format('socket.create_connection({listener}, 1)'),
  'tcp outside': TRY.format('socket.create_connection(("1.1.1.1", 53), 1)'),
  'udp': TRY.format('socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", {listener})'),
  'dns': TRY.format('socket.getaddrinfo("example.com", 80)'),
  'unix socket': TRY.format('socket.socket(socket.AF_UNIX).connect({folder} + "/socket")'),
  'abstract socket': TRY.format('socket.socket(socket.AF_UNIX).connect("\\0" + {folder})'),
  'netlink': TRY.format('socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)'),
  'passwd': TRY.format('open("/etc/passwd").read()'),
  'root': TRY.format('assert {".bashrc", ".profile", ".ssh"} & set(os.listdir("/root"))'),
  'a file': TRY.format('open({secret}).read()'),
  'a new file': TRY.format('open({folder} + "/new", "w")'),
  'an appended file': TRY.format('open({secret}, "a")'),
  'truncation': TRY.format('os.truncate({secret}, 0)'),
  'mode': TRY.format('os.chmod({secret}, 0)'),
  'removal': TRY.format('os.unlink({secret})'),
  'renaming': TRY.format('os.rename({secret}, "mine")'),
  'symlink': TRY.format('os.symlink({secret}, "a"); open("a").read()'),
  'symlinked folder': TRY.format('os.symlink({folder}, "d"); os.listdir("d")'),
  'hardlink': TRY.format('os.link({secret}, "b"); open("b").read()'),
  'path upwards': TRY.format('open("../" * 40 + {secret}.lstrip("/")).read()'),
  'root of a process': TRY.format('open("/proc/self/root" + {secret}).read()'),
  'root folder': TRY.format('open("/new", "w")'),
  'devices': TRY.format('os.mknod("dev", 0o20666, os.makedev(1, 1)); open("dev").read(1)'),
  'python itself': TRY.format('open(os.__file__, "a")'),
  'environment': 'import os\nprint("ESCAPED" if "SECRET" in os.environ else sorted(os.environ))',
  'environment of others': TRY.format('assert open("/proc/1/environ", "rb").read()'),
  'own environment by proc': TRY.format('assert open("/proc/self/environ", "rb").read()'),
  'processes': TRY.format('assert [x for x in os.listdir("/proc") if x.isdigit()]'),
  'ptrace': TRY.format('assert libc.ptrace(0, 0, 0, 0) == 0 or libc.ptrace(16, os.getppid(), 0, 0) == 0'),
  'process memory': TRY.format('assert libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) >= 0'),
  'namespace': TRY.format('assert libc.unshare(0x10000000) == 0'),
  'mount': TRY.format('assert libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0'),
  'user id': TRY.format('assert libc.setuid(0) == 0 or libc.setresuid(0, 0, 0) == 0'),
  'host name': TRY.format('assert libc.sethostname(b"x", 1) == 0'),
  'keyring': TRY.format('assert libc.syscall(250, 0, -3, 1, 0, 0) >= 0'),
  'a lock on a library': TRY.format('import fcntl; fcntl.flock(open(os.__file__), fcntl.LOCK_EX)'),
  'a lock on a device': TRY.format('import fcntl; fcntl.lockf(open("/dev/null", "w"), fcntl.LOCK_EX)'),
  'a look at locks': TRY.format('import fcntl; fcntl.fcntl(open(os.__file__), fcntl.F_GETLK, bytes(64))'),
  'a lease': TRY.format('import fcntl; fcntl.fcntl(open(os.__file__), fcntl.F_SETLEASE, fcntl.F_RDLCK)'),
  'news of a folder': TRY.format(
    'import fcntl; fcntl.fcntl(os.open(os.path.dirname(os.__file__), 0), fcntl.F_NOTIFY, fcntl.DN_ACCESS)'
  ),
  'inotify': TRY.format('assert libc.inotify_init() >= 0'),
  'a larger pipe': TRY.format('import fcntl; fcntl.fcntl(os.pipe()[0], 1031, 2**20)'),
  'a larger socket': TRY.format('socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**24)'),
  'a sent descriptor': TRY.format('socket.send_fds(socket.socketpair()[0], [b"x"], [0])'),
  'limits of the parent': TRY.format('import resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))'),
  'signal owner': TRY.format('import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, 1)'),
}
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


def kernel_has(backend: str) -> bool:
  """Whether this kernel lets anybody do what the backend needs, asked without the sandbox."""
  if backend == 'landlock':
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 3  # landlock_create_ruleset, its version
  command = ['unshare', '--user', '--map-root-user', '--mount', '--pid', '--net', '--fork', 'mount', '-t', 'tmpfs']
  return subprocess.run([*command, 'none', '/mnt'], capture_output=True).returncode == 0


# A wrapping as docs/sandbox.md has it; bubblewrap's own processes are the monitor and process 1 of its namespace.
BWRAP = (
  'bwrap',
  '--ro-bind',
  '/',
  '/',
  '--dev',
  '/dev',
  '--proc',
  '/proc',
  '--bind',
  '/tmp',
  '/tmp',
  '--unshare-net',
  '--unshare-pid',
  '--die-with-parent',
)


@pytest.fixture(scope='module', params=['namespaces', 'landlock', 'bwrap'])
def pool(request):
  wrap = BWRAP if request.param == 'bwrap' else ()
  backend = 'namespaces' if wrap else request.param
  if wrap and not shutil.which('bwrap'):
    pytest.skip('bubblewrap is not installed')
  if wrap and subprocess.run([*wrap, 'true'], capture_output=True).returncode:
    pytest.skip('bubblewrap may make no namespaces here')
  if not kernel_has(backend):
    pytest.skip(f'this kernel has no {backend} for us')
  os.environ['SECRET'] = 'of the host'
  with Pool(3, LIMITS, profile='numpy', backend=backend, wrap=wrap) as pool:
    yield pool
  del os.environ['SECRET']


@pytest.fixture(scope='module')
def host(tmp_path_factory):
  """A file, a listening socket and a unix socket of the host."""
  folder = tmp_path_factory.mktemp('host')
  secret = folder / 'secret'
  secret.write_text('of the host')
  for path in (secret, *secret.parents):
    if path.owner() == pathlib.Path.home().owner() and str(path).startswith('/tmp/'):
      path.chmod(0o777)
  with (
    socket.create_server(('127.0.0.1', 0)) as tcp,
    socket.socket(socket.AF_UNIX) as unix,
    socket.socket(socket.AF_UNIX) as abstract,
  ):
    unix.bind(str(folder / 'socket'))
    unix.listen()
    abstract.bind('\0' + str(folder))
    abstract.listen()
    yield {'{secret}': repr(str(secret)), '{folder}': repr(str(folder)), '{listener}': repr(tcp.getsockname())}
  assert secret.read_text() == 'of the host'
  assert sorted(p.name for p in folder.iterdir()) == ['secret', 'socket']


def family(pool: Pool) -> set[int]:
  return {
    p.pid for p in psutil.Process(pool._seed.process.pid).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE
  }


def run_beside_others(pool: Pool, code: str):
  """The result of `code`, while others go on calling; checks time, containment and what is left over."""
  others, done = [], threading.Event()

  def call():
    while not done.is_set():
      others.append(pool.run('6 * 7'))
      time.sleep(0.02)

  before = {(p := pool.run('1')).status for _ in range(2)}
  assert before == {'ok'}, p
  thread = threading.Thread(target=call)
  thread.start()
  start = time.monotonic()
  result = pool.run(code)
  seconds = time.monotonic() - start
  done.set()
  thread.join()
  assert seconds < LIMITS.wall + HANG, seconds
  assert 'ESCAPED' not in result.stdout, result
  assert others and {(r.status, r.stdout) for r in others} == {('ok', '42\n')}, others
  assert len(family(pool)) <= 1 + pool.workers + 2 * bool(pool._wrap), 'processes are left'
  return result


@pytest.mark.parametrize('name', BOMBS)
def test_bomb_is_contained(pool, name):
  code, statuses = BOMBS[name]
  result = run_beside_others(pool, code)
  assert result.status in statuses, result


@pytest.mark.parametrize('name', REACHES)
def test_nothing_of_the_host_is_reached(pool, host, name):
  code = REACHES[name]
  for key, value in host.items():
    code = code.replace(key, value)
  result = run_beside_others(pool, code)
  assert result.status == 'ok', result
  assert 'of the host' not in result.stdout


@pytest.mark.parametrize('name', TRICKS)
def test_trick_ends_as_a_result(pool, name):
  code, statuses = TRICKS[name]
  result = run_beside_others(pool, code)
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


def core_limit() -> str:
  """What a call says of its limit of core files: 0 stops only dumps to files, 1 stops both (core(5))."""
  _, highest = resource.getrlimit(resource.RLIMIT_CORE)
  return '(1, 1)\n' if highest or highest == resource.RLIM_INFINITY else '(0, 0)\n'


def test_a_crash_is_not_piped_to_a_program_of_the_host(pool):
  assert pool.run('import resource\nresource.getrlimit(resource.RLIMIT_CORE)').stdout == core_limit()
  for limits in ('(0, 1)', '(0, 0)', '(1, 1)'):
    lowered = pool.run(f'import resource\nresource.setrlimit(resource.RLIMIT_CORE, {limits})')
    assert lowered.status == 'error' and 'ValueError' in lowered.stderr, lowered
  kept = pool.run('import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))\nprint(9)')
  assert kept.stdout == '9\n', kept


def test_without_isolation_a_crash_is_not_piped_either():
  with Pool(1, LIMITS, profile='python', backend='rlimits') as pool:
    assert pool.run('import resource\nresource.getrlimit(resource.RLIMIT_CORE)').stdout == core_limit()


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


def test_nul_bytes_and_surrogates_in_the_code(pool):
  for code in ('print(1)\0', '"\udcff"'):
    result = pool.run(code)
    assert result.status == 'error', result
    assert 'Error' in result.stderr


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


def test_no_privilege_is_left(pool):
  result = pool.run('import os\nos.getuid(), os.geteuid(), os.getgroups()')
  if pool.backend == 'namespaces':
    assert result.stdout in ('(1000, 1000, [])\n', '(1000, 1000, [65534])\n')
  code = 'import ctypes\nh = (ctypes.c_uint32 * 2)(0x20080522, 0)\nd = (ctypes.c_uint32 * 6)()\n'
  code += 'ctypes.CDLL(None).capget(h, d)\nlist(d)'
  assert pool.run(code).stdout == '[0, 0, 0, 0, 0, 0]\n'
