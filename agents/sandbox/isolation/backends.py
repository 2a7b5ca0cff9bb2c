"""The three ways of shutting code in: namespaces, Landlock with seccomp, or (asked for by name only) rlimits alone.

Each runs the same life: the launched process forks the zygote (`fork_zygote`, `launch`), the zygote forks slots
(`fork_slot`, `settle`), a slot makes a scratch folder and forks a call (`open_scratch`, `fork_call`), the call locks
itself in (`confine`).
"""

import contextlib
import math
import os
import resource
import signal
import socket
import tempfile

from agents.sandbox.isolation import landlock, linux, root, seccomp
from agents.sandbox.limits import Limits
from agents.sandbox.watch import trees
from agents.sandbox.watch.family import Family, socket_bytes

_USER = 1000  # the code's user id, inside
_IDS = 255  # ids reserved for slots when the launcher may map any


class Plain:
  """Limits only: the code sees files, network and processes as the caller does. For trusted code."""

  name = 'rlimits'

  def __init__(self, proc: int):
    self.proc = proc  # /proc as it was at the launch
    self.socket_bytes = socket_bytes(proc)

  def fork_zygote(self) -> int:
    """Forks the zygote off the launched process, with which it dies: 0 in the zygote."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
      linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
      if os.getppid() != parent:
        os._exit(1)
    return pid

  def family(self) -> Family:
    """The descendants of the calling process."""
    return Family(self.proc, self.socket_bytes)

  def launch(self) -> None:
    """Readies the zygote."""
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

  def fork_slot(self) -> int:
    """Forks a slot off the zygote: 0 in the slot."""
    return os.fork()

  def released(self, pid: int) -> None:
    """The slot `pid` is gone."""

  def settle(self) -> None:
    """Readies the slot, once."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

  def end_family(self, family: Family) -> None:
    """Ends every process below the calling one, which is a subreaper, and returns when none is left."""
    while family.members():
      family.signal(signal.SIGKILL)
      os.waitpid(-1, 0)

  def end_orphans(self) -> None:
    """Ends what a dead zygote left below the launched process."""
    self.end_family(self.family())

  def open_scratch(self, limits: Limits) -> str:
    """A new empty folder for one call or one session."""
    del limits  # held to by the slot's watch
    return tempfile.mkdtemp(prefix='sandbox-')

  def close_scratch(self, folder: str) -> list[str]:
    """Removes what `open_scratch` made; returns what could not be removed and why."""
    return trees.remove(folder)

  def fork_call(self) -> int:
    """Forks a call off the slot, which is its parent and that of its orphans: 0 in the call."""
    return os.fork()

  def confine(self, limits: Limits, scratch: str, space: int) -> None:
    """Locks this process in for good; `space` is the address space, in bytes, it may have."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = None  # what `open_scratch` made it remember
    _limit(limits, space)

  watched_scratch = True  # the scratch is an ordinary folder, its size must be watched


class Landlock(Plain):
  """One process without privileges: Landlock keeps the file trees, seccomp forbids forks, sockets, foreign targets."""

  name = 'landlock'

  def launch(self) -> None:
    super().launch()
    landlock.version()
    self.paths = root.readable()
    linux.bar_privileges()

  def confine(self, limits: Limits, scratch: str, space: int) -> None:
    super().confine(limits, scratch, space)
    linux.drop_capabilities()
    landlock.restrict([*self.paths, *root.DEVICES], [scratch, '/dev/null'])
    seccomp.install(seccomp.program(private=False, pid=os.getpid()))


class Namespaces(Plain):
  """A private world: user, processes, mounts, network, ipc and host name; its root holds Python and nothing else."""

  name = 'namespaces'
  watched_scratch = False

  def fork_zygote(self) -> int:
    """The zygote is process 1 of its own namespace: when it dies, everything below it dies."""
    ours, theirs = socket.socketpair()
    pid = linux.clone(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    with ours, theirs:
      if pid == 0:
        ours.close()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if theirs.recv(1) != b'm':
          os._exit(1)
        return 0
      self._map_launched(pid)
      ours.send(b'm')
    return pid

  def launch(self) -> None:
    with open('/proc/self/uid_map', encoding='ascii') as f:
      self.many = len(f.readlines()) > 1
    self.free = list(range(_IDS, 0, -1))
    self.taken: dict[int, int] = {}
    self.paths = root.readable()
    self.scratch = root.scratch(self.paths)
    closed = [p for p in self.paths if not os.stat(p).st_mode & 0o004]
    if self.many and closed:  # the pool's own user could still import, the slots' users could not
      raise PermissionError(f'{closed} can be read by their owner only (chmod o+rX would open them)')
    self.filter = seccomp.program(private=True)

  def _map_launched(self, pid: int) -> None:
    """Maps our own id, and where we may a range that nobody else uses: code then runs as none of the host's users."""
    base = 2**30 + pid * (_IDS + 1)
    for kind, own in (('uid', os.geteuid()), ('gid', os.getegid())):
      try:
        _write(self.proc, f'{pid}/{kind}_map', f'0 {own} 1\n1 {base} {_IDS}\n')
      except PermissionError:
        if kind == 'gid':
          _write(self.proc, f'{pid}/setgroups', 'deny')
        _write(self.proc, f'{pid}/{kind}_map', f'0 {own} 1\n')

  def fork_slot(self) -> int:
    if self.many and not self.free:
      raise OSError(f'more than {_IDS} slots')
    ours, theirs = socket.socketpair()
    pid = linux.clone(
      linux.CLONE_NEWUSER
      | linux.CLONE_NEWPID
      | linux.CLONE_NEWNS
      | linux.CLONE_NEWNET
      | linux.CLONE_NEWIPC
      | linux.CLONE_NEWUTS
      | linux.CLONE_NEWCGROUP
    )
    with ours, theirs:
      if pid == 0:
        ours.close()
        theirs.send(os.readlink('self', dir_fd=self.proc).encode())
        if theirs.recv(1) != b'm':
          os._exit(1)
        return 0
      theirs.close()
      outside = ours.recv(16).decode()
      index = 0
      if self.many:
        index = self.taken[pid] = self.free.pop()
      elif not self._denied(outside):
        _write(self.proc, f'{outside}/setgroups', 'deny')
      for kind in ('uid', 'gid'):
        _write(self.proc, f'{outside}/{kind}_map', f'{_USER} {index} 1\n')
      ours.send(b'm')
    return pid

  def _denied(self, pid: str) -> bool:
    with open(os.open(f'{pid}/setgroups', os.O_RDONLY, dir_fd=self.proc), encoding='ascii') as f:
      return f.read().strip() == 'deny'

  def released(self, pid: int) -> None:
    if pid in self.taken:
      self.free.append(self.taken.pop(pid))

  def end_family(self, family: Family) -> None:
    """The caller is process 1 of its namespace: one signal reaches all others there, and orphans are its children.

    The kernel sends it to all at once and lets no process fork that it is on its way to.
    """
    if os.getpid() != 1:
      raise RuntimeError('only process 1 of a namespace may signal everything in sight')
    while True:
      with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
      try:
        os.waitpid(-1, 0)
      except ChildProcessError:
        return

  def end_orphans(self) -> None:
    """The kernel has ended them with the zygote's namespace."""

  def settle(self) -> None:
    mounts = root.build(self.paths)
    if self.many:
      os.setgroups([])
      os.setresgid(_USER, _USER, _USER)
      os.setresuid(_USER, _USER, _USER)
      linux.prctl(linux.PR_SET_DUMPABLE, 1)  # the change of id hid the memory figures from ourselves
    root.enter(mounts, self.scratch)
    socket.sethostname('sandbox')
    os.environ.update(HOME=self.scratch, TMPDIR=self.scratch)
    linux.bar_privileges()

  def open_scratch(self, limits: Limits) -> str:
    linux.mount(
      'tmpfs',
      self.scratch,
      linux.MS_NOSUID | linux.MS_NODEV,
      f'size={limits.disk},nr_inodes={limits.inodes},mode=700,uid={_USER},gid={_USER}',
    )
    return self.scratch

  def close_scratch(self, folder: str) -> list[str]:
    linux.unmount(folder)
    return []

  def confine(self, limits: Limits, scratch: str, space: int) -> None:
    _limit(limits, space)
    linux.drop_capabilities()
    seccomp.install(self.filter)


BACKENDS = {b.name: b for b in (Namespaces, Landlock, Plain)}


def _limit(limits: Limits, space: int) -> None:
  """Sets the hard resource limits of this process.

  The signal of the processor's soft limit tells why a process ends; one that ignores it is killed a second later.
  """
  seconds = math.ceil(limits.cpu)
  for what, soft, hard in (
    ('AS', space, space),
    ('CPU', seconds, seconds + 1),
    ('NPROC', limits.tasks, limits.tasks),
    ('NOFILE', limits.descriptors, limits.descriptors),
    ('FSIZE', limits.disk, limits.disk),
    ('CORE', 1, 1),  # 1, because 0 does not keep the kernel from piping a dump to a program of the host; core(5)
    ('SIGPENDING', limits.tasks, limits.tasks),
    ('MEMLOCK', 0, 0),
    ('MSGQUEUE', 0, 0),
    ('STACK', 8 * 2**20, 8 * 2**20),
  ):
    kind = getattr(resource, f'RLIMIT_{what}')
    _, highest = resource.getrlimit(kind)
    if highest != resource.RLIM_INFINITY:
      soft = min(soft, highest)
      hard = min(hard, highest)
    resource.setrlimit(kind, (soft, hard))


def _write(proc: int, path: str, text: str) -> None:
  """Writes a file of /proc in one piece."""
  fd = os.open(path, os.O_WRONLY, dir_fd=proc)
  try:
    os.write(fd, text.encode())
  finally:
    os.close(fd)
