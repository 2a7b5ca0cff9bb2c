"""The Linux calls that Python 3.11 has no names for, through ctypes: namespaces, mounts, capabilities, clone."""

import ctypes
import functools
import os
import platform

import system_calls

CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
ATTR_RDONLY = 1
ATTR_NOSUID = 2
ATTR_NODEV = 4
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_FROM_EMPTY = 4

# PyDLL keeps the interpreter lock: in a fork the child must come back as the thread that holds it.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@functools.cache
def number(name: str) -> int | None:
  """The number of a system call on this machine; None where the architecture has no such call."""
  machine = {'aarch64': 'arm64'}.get(platform.machine(), platform.machine())
  try:
    return _table().get(name, machine)
  except system_calls.NotSupportedSystemCall:
    return None


@functools.cache
def _table():
  return system_calls.syscalls()


def syscall(name: str, *args: int | bytes | None) -> int:
  """Makes a system call by name. Raises OSError with the call's name."""
  words = [a if isinstance(a, bytes) or a is None else ctypes.c_long(a) for a in args]
  result = _libc.syscall(ctypes.c_long(number(name)), *words)
  if result < 0:
    error = ctypes.get_errno()
    raise OSError(error, f'{name}: {os.strerror(error)}')
  return result


def prctl(option: int, value: int | bytes = 0, third: int | bytes = 0) -> int:
  """prctl(2)."""
  return syscall('prctl', option, value, third, 0, 0)


def clone(flags: int) -> int:
  """fork(2) into new namespaces: 0 in the child, the child's id in the parent. Single-threaded callers only."""
  ctypes.pythonapi.PyOS_BeforeFork()
  try:
    pid = syscall('clone', flags | 17, 0, 0, 0, 0)  # 17: SIGCHLD
  except OSError:
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    raise
  if pid == 0:
    ctypes.pythonapi.PyOS_AfterFork_Child()
  else:
    ctypes.pythonapi.PyOS_AfterFork_Parent()
  return pid


def mount(kind: str | None, target: str, flags: int, options: str = '') -> None:
  """mount(2) of a file system without a device."""
  syscall('mount', kind and kind.encode(), target.encode(), kind and kind.encode(), flags, options.encode())


def unmount(target: str) -> None:
  """Detaches the mount at `target`."""
  syscall('umount2', target.encode(), MNT_DETACH)


def pivot(root: str) -> None:
  """Makes the mount at `root` the root of this mount namespace and lets the old one go."""
  os.chdir(root)
  syscall('pivot_root', b'.', b'.')
  unmount('.')
  os.chdir('/')


def copy_mount(path: str, attributes: int) -> int:
  """A detached copy of the tree at `path`, with `attributes` set on every mount of it, as a descriptor."""
  fd = syscall('open_tree', _AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
  wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
  syscall('mount_setattr', fd, b'', _AT_EMPTY_PATH | _AT_RECURSIVE, ctypes.addressof(wanted), ctypes.sizeof(wanted))
  return fd


def attach_mount(fd: int, target: str) -> None:
  """Attaches what `copy_mount` gave at `target`, and closes it."""
  syscall('move_mount', fd, b'', _AT_FDCWD, target.encode(), _MOVE_FROM_EMPTY)
  os.close(fd)


def bar_privileges() -> None:
  """No program run later gains a privilege: no_new_privs, and an empty bounding set where we may empty it."""
  prctl(PR_SET_NO_NEW_PRIVS, 1)
  for capability in range(64):
    try:
      prctl(PR_CAPBSET_DROP, capability)
    except OSError:  # past the last one, or not ours to drop
      break


def drop_capabilities() -> None:
  """Gives up every capability of this thread."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
  none = (ctypes.c_uint32 * 6)()
  syscall('capset', ctypes.addressof(header), ctypes.addressof(none))
