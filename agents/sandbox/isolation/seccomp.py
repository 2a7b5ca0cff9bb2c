"""A seccomp filter that allows what Python, numpy and child processes need, assembled as classic BPF.

What is not listed fails as if the kernel did not have it (ENOSYS); making sockets fails as forbidden (EACCES).
Layout of `struct seccomp_data` and the return values: linux/seccomp.h; instructions: linux/bpf_common.h.
"""

import ctypes
import errno
import platform
import struct

from agents.sandbox.isolation import linux

_AUDIT_ARCH = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
_LOAD = 0x20
_EQUAL = 0x15
_ANY_BIT = 0x45
_ABOVE = 0x25
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data

_ALWAYS = """
  read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3 pipe
  pipe2 open openat openat2 creat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat
  getcwd chdir fchdir getdents getdents64 mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
  symlink symlinkat truncate ftruncate fallocate fsync fdatasync sync_file_range fadvise64 readahead umask statfs
  fstatfs sendfile copy_file_range splice tee poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait
  epoll_pwait epoll_pwait2 eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime signalfd signalfd4
  munmap mprotect mremap madvise msync brk mlock mlock2 munlock membarrier
  futex futex_waitv set_robust_list rseq set_tid_address arch_prctl
  rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause restart_syscall
  getpid gettid getppid getpgid getpgrp setpgid getsid setsid getuid geteuid getgid getegid getresuid getresgid
  getgroups capget getpriority getrlimit getrusage times sysinfo uname getcpu
  sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min
  clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getitimer setitimer alarm timer_create
  timer_settime timer_gettime timer_getoverrun timer_delete
  wait4 waitid exit exit_group execve execveat getrandom sendto recvfrom recvmsg recvmmsg shutdown
  getsockname getpeername getsockopt
"""
# Harmless where everything in sight is the call's own or read-only; elsewhere they reach the host's files.
_PRIVATE_ROOT = """
  fork vfork chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat
"""
# Where other processes of this user are in sight, only when aimed at the caller: the first argument is 0 or its own id.
# In a namespace of their own not at process 1, which is the slot.
_AT_A_PROCESS = ('kill', 'tgkill', 'prlimit64', 'sched_setaffinity')
_SLOT = 1

_THREAD, _NAMESPACES = 0x10000, 0x7E020080  # CLONE_THREAD; CLONE_NEWTIME and every CLONE_NEW*
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: memory that no limit would count
_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_VMA = 0x53564D41
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15  # would send signals to any process of the user
# Record locks and leases: they are kernel memory without a limit, and seen by all who open the same file, such as a
# library or /dev/null. Notifications of a folder tell what others do there.
_LOCKS = (5, 6, 7, 36, 37, 38)  # F_GETLK, F_SETLK, F_SETLKW, and the same of open file descriptions
_F_SETLEASE = 1024
_F_NOTIFY = 1026
_F_SETPIPE_SZ = 1031
_RLIMIT_CORE = 4
_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and their forms for the privileged
_FIOSETOWN = 0x8901
_SIOCSPGRP = 0x8902
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C


def _op(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
  return struct.pack('HBBI', code, then, otherwise, value)


def _refuse(error: int) -> bytes:
  return _op(_RETURN, 0x50000 | error)


_YES = _op(_RETURN, _ALLOW)


def _rule(name: str, body: bytes) -> bytes:
  """`body`, which must return, for the call `name`; nothing where this machine has no such call."""
  number = linux.number(name)
  if number is None:
    return b''
  return _op(_EQUAL, number, 0, len(body) // 8) + body


def _argument(index: int) -> bytes:
  """Loads the low half of an argument (both architectures are little-endian)."""
  return _op(_LOAD, _ARGUMENTS + 8 * index)


def _only(index: int, values: tuple[int, ...], error: int = errno.EPERM) -> bytes:
  """Allows the call when the argument is one of the values."""
  return _argument(index) + b''.join(_op(_EQUAL, v, 0, 1) + _YES for v in values) + _refuse(error)


def _never(index: int, values: tuple[int, ...]) -> bytes:
  """Refuses the call when the argument is one of the values."""
  return _unless(index, dict.fromkeys(values, errno.EPERM))


def _keeping_core_limit(rest: bytes) -> bytes:
  """Refuses prlimit64 of core dumps, whose limit of 1 keeps the kernel from piping them; `rest` for every other use.

  The new limits, the third argument, are a pointer: none means that the limits are only read.
  """
  refuse = _refuse(errno.EPERM)
  new_is_given = _argument(2) + _op(_EQUAL, 0, 0, 2) + _op(_LOAD, _ARGUMENTS + 20) + _op(_EQUAL, 0, 1, 0)
  guard = new_is_given + refuse
  return _argument(1) + _op(_EQUAL, _RLIMIT_CORE, 0, len(guard) // 8) + guard + rest


def _unless(index: int, errors: dict[int, int]) -> bytes:
  """Refuses the call with an error that depends on the argument, and allows it for every other value."""
  refusals = [_op(_EQUAL, value, 0, 1) + _refuse(error) for value, error in errors.items()]
  return _argument(index) + b''.join(refusals) + _YES


_FCNTL = dict.fromkeys(_LOCKS, errno.ENOLCK) | dict.fromkeys(
  (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY, _F_SETPIPE_SZ), errno.EPERM
)


def program(*, private: bool, pid: int = 0) -> bytes:
  """The filter. private: root, processes and user are the call's own; if not, it may not fork, and signals, limits
  and affinity only reach process `pid`, the caller. Descriptors cannot be sent: on their way no watch sees them, nor
  what their buffers hold. Raises OSError (ENOSYS) on an architecture without a table."""
  arch = _AUDIT_ARCH.get(platform.machine())
  if arch is None:
    raise OSError(errno.ENOSYS, f'no seccomp filter for {platform.machine()}, only for {sorted(_AUDIT_ARCH)}')
  plain = _ALWAYS.split() + (_PRIVATE_ROOT.split() if private else [])
  if private:
    aimed = {name: _never(0, (_SLOT,)) for name in (*_AT_A_PROCESS, 'tkill')}
  else:
    aimed = {name: _only(0, (0, pid)) for name in _AT_A_PROCESS}
  aimed['prlimit64'] = _keeping_core_limit(aimed['prlimit64'])
  clone = (
    _argument(0)
    + _op(_ANY_BIT, _NAMESPACES, 0, 1)
    + _refuse(errno.EPERM)
    + (b'' if private else _op(_ANY_BIT, _THREAD, 1, 0) + _refuse(errno.EPERM))
    + _YES
  )
  mmap = _argument(3) + b''.join(
    (_op(0x54, _SHARED_ANONYMOUS), _op(_EQUAL, _SHARED_ANONYMOUS, 0, 1), _refuse(errno.ENOMEM), _YES)
  )  # 0x54: and
  rules = {
    'clone': clone,
    'clone3': _refuse(errno.ENOSYS),
    'mmap': mmap,
    'socket': _refuse(errno.EACCES),
    'socketpair': _only(0, (1,), errno.EACCES),
    'prctl': _only(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA)),
    'fcntl': _unless(1, _FCNTL),
    'flock': _refuse(errno.ENOLCK),
    'setsockopt': _never(2, _BUFFERS),
    'ioctl': _never(1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX)),
    **aimed,
  }
  head = _op(_LOAD, _ARCH) + _op(_EQUAL, arch, 1, 0) + _op(_RETURN, _KILL) + _op(_LOAD, _NUMBER)
  x32 = b''
  if platform.machine() == 'x86_64':
    x32 = _op(_ABOVE, 0x3FFFFFFF, 0, 1) + _refuse(errno.ENOSYS)
  return (
    head
    + x32
    + b''.join(_rule(n, _YES) for n in plain)
    + b''.join(_rule(n, b) for n, b in rules.items())
    + _refuse(errno.ENOSYS)
  )


def install(filter_: bytes) -> None:
  """Puts this thread, and all it starts, under the filter for good. Needs no_new_privs."""
  code = ctypes.create_string_buffer(filter_)
  header = struct.pack('HxxxxxxP', len(filter_) // 8, ctypes.addressof(code))
  linux.prctl(linux.PR_SET_SECCOMP, 2, header)  # 2: SECCOMP_MODE_FILTER
