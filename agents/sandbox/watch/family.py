"""The processes below this one, read from a /proc opened before the root was changed."""

import os
import stat
from collections.abc import Iterator

_PAGE = os.sysconf('SC_PAGE_SIZE')
_PIPE = 64 * 1024  # bytes that a pipe may hold; the filter forbids to enlarge it
_GONE = (FileNotFoundError, ProcessLookupError)  # what reading /proc says of a process that has ended


def socket_bytes(proc: int) -> int:
  """Bytes that the send buffer of a socket may hold: the default, and half as much by which one message exceeds it."""
  try:
    with open(os.open('sys/net/core/wmem_default', os.O_RDONLY, dir_fd=proc), encoding='ascii') as f:
      default = int(f.read())
  except _GONE:  # no network in this kernel or namespace
    default = 212992
  return default * 3 // 2


class Family:
  """All descendants of the calling process. Ids are those of the opened /proc, `local` translates them.

  A process that has ended counts as nothing. What cannot be read of a living one raises OSError, or is counted as the
  most that it may be.
  """

  def __init__(self, proc: int, socket_size: int):
    self.proc = proc
    self.socket_size = socket_size
    self.me = int(os.readlink('self', dir_fd=proc))
    self._depth = len(self._namespaced(self.me)) - 1
    self._start = self._pages(self.me)

  def members(self) -> list[int]:
    """Every living descendant."""
    found = []
    new = [self.me]
    while new:
      new = [int(child) for pid in new for child in self._children(pid)]
      found += new
    return found

  def memory(self) -> int:
    """Bytes of memory that the family holds beyond what it was forked with.

    First the cheap bound, in which each process counts what it shares with its relatives in full.
    """
    grown = [max(0, self._pages(pid) - self._start) for pid in self.members()]
    return sum(grown) * _PAGE

  def exact_memory(self) -> int:
    """The same with every shared page counted once (proportional set sizes, slower to read)."""
    return sum(self._proportional(pid) for pid in self.members())

  def held(self, most: int) -> tuple[int, int]:
    """(bytes that pipes and sockets may hold in the kernel, bytes of files that are open but in no folder).

    most: descriptors that a process may have; one whose descriptors cannot be listed has as many sockets.
    """
    pipes = set()
    sockets = set()
    files = {}
    unknown = 0
    for descriptor in self._descriptors():
      if descriptor is None:
        unknown += most
        continue
      status = self._status(descriptor)
      if status is None:
        continue
      identity = status.st_dev, status.st_ino
      if stat.S_ISFIFO(status.st_mode):
        pipes.add(identity)
      elif stat.S_ISSOCK(status.st_mode):
        sockets.add(identity)
      elif stat.S_ISREG(status.st_mode) and not status.st_nlink and not self._is_input(descriptor):
        files[identity] = status.st_blocks * 512
    buffers = len(pipes) * _PIPE + (len(sockets) + unknown) * self.socket_size
    return buffers, sum(files.values())

  def space(self) -> int:
    """Bytes of address space of the calling process."""
    return int(self._read(f'{self.me}/statm').split()[0]) * _PAGE

  def tasks(self) -> int:
    """Processes and threads of the family."""
    return sum(len(self._threads(pid)) for pid in self.members())

  def signal(self, number: int) -> None:
    """Sends a signal to every descendant, again while new ones appear."""
    done: set[int] = set()
    while new := set(self.members()) - done:
      for pid in new:
        if (local := self.local(pid)) is not None:
          try:
            os.kill(local, number)
          except ProcessLookupError:  # gone between the two lines
            continue
      done |= new

  def local(self, pid: int) -> int | None:
    """The id of `pid` as the calling process sees it; None when it is gone."""
    ids = self._namespaced(pid)
    if len(ids) > self._depth:
      return ids[self._depth]
    return None

  def _namespaced(self, pid: int) -> list[int]:
    for line in self._read(f'{pid}/status').splitlines():
      if line.startswith('NSpid:'):
        return [int(x) for x in line.split()[1:]]
    return []

  def _pages(self, pid: int) -> int:
    fields = self._read(f'{pid}/statm').split()
    if fields:
      return int(fields[1])
    return 0

  def _children(self, pid: int) -> list[str]:
    listed = [self._read(f'{pid}/task/{tid}/children') for tid in self._threads(pid)]
    return [child for line in listed for child in line.split()]

  def _proportional(self, pid: int) -> int:
    try:
      lines = self._read(f'{pid}/smaps_rollup').splitlines()
    except PermissionError:
      lines = []
    for line in lines:
      if line.startswith('Pss:'):
        return int(line.split()[1]) * 1024
    return self._pages(pid) * _PAGE  # not readable: no reason to count it less

  def _threads(self, pid: int) -> list[str]:
    return self._list(f'{pid}/task')

  def _descriptors(self) -> Iterator[str | None]:
    """Paths of all descriptors of the family; None for the descriptors of a thread that cannot be listed.

    Of each thread: a thread may have descriptors that its process does not show.
    """
    for pid in self.members():
      for tid in self._threads(pid):
        folder = f'{pid}/task/{tid}/fd'
        try:
          names = self._list(folder)
        except PermissionError:
          if self._pages(pid):  # one without memory is ending, and belongs to nobody until it has ended
            yield None
          continue
        yield from (f'{folder}/{name}' for name in names)

  def _status(self, path: str) -> os.stat_result | None:
    """The status of what a descriptor refers to; None if it is closed, or its process has begun to end.

    A process that refuses for longer is charged in full at the next look, since its descriptors cannot be listed then.
    """
    try:
      return os.stat(path, dir_fd=self.proc)
    except (*_GONE, PermissionError):
      return None

  def _is_input(self, path: str) -> bool:
    """Whether a descriptor is that of a call's input, the only memory file that it may have."""
    try:
      return os.readlink(path, dir_fd=self.proc).startswith('/memfd:')
    except OSError:  # closed, or a path of more than 4,096 bytes
      return False

  def _list(self, path: str) -> list[str]:
    """The names in a folder of /proc; none when its process is gone."""
    try:
      fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
    except _GONE:
      return []
    try:
      return os.listdir(fd)
    except _GONE:
      return []
    finally:
      os.close(fd)

  def _read(self, path: str) -> str:
    """The text of a file of /proc; empty when its process is gone."""
    try:
      fd = os.open(path, os.O_RDONLY, dir_fd=self.proc)
    except _GONE:
      return ''
    try:
      return os.read(fd, 1 << 16).decode()
    except _GONE:
      return ''
    finally:
      os.close(fd)
