"""Snippets that reach for the host: its network, files, processes, kernel objects and privileges."""

import resource

import pytest

from agents.sandbox import Pool
from tests.agents.sandbox.hostile.containment import LIMITS, TRY, run_among_others

# A snippet may name {secret}, {folder} and {listener} of the host.
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


@pytest.mark.parametrize('name', REACHES)
def test_nothing_of_the_host_is_reached(pool, host, name):
  code = REACHES[name]
  for key, value in host.items():
    code = code.replace(key, value)
  result = run_among_others(pool, code)
  assert result.status == 'ok', result
  assert 'of the host' not in result.stdout


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


def test_no_privilege_is_left(pool):
  result = pool.run('import os\nos.getuid(), os.geteuid(), os.getgroups()')
  if pool.backend == 'namespaces':
    assert result.stdout in ('(1000, 1000, [])\n', '(1000, 1000, [65534])\n')
  code = 'import ctypes\nh = (ctypes.c_uint32 * 2)(0x20080522, 0)\nd = (ctypes.c_uint32 * 6)()\n'
  code += 'ctypes.CDLL(None).capget(h, d)\nlist(d)'
  assert pool.run(code).stdout == '[0, 0, 0, 0, 0, 0]\n'
