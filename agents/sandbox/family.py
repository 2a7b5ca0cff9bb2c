"""The processes below this one, read from a /proc opened before the root was changed."""

import os

_PAGE = os.sysconf('SC_PAGE_SIZE')


class Family:
  """All descendants of the calling process. Ids are those of the opened /proc, `local` translates them."""

  def __init__(self, proc: int):
    self.proc = proc
    self.me = int(os.readlink('self', dir_fd=proc))
    self._depth = len(self._namespaced(self.me)) - 1
    self._start = self._pages(self.me)

  def members(self) -> list[int]:
    """Every living descendant."""
    found, new = [], [self.me]
    while new:
      new = [int(child) for pid in new for child in self._children(pid)]
      found += new
    return found

  def memory(self) -> int:
    """Bytes of memory that the family holds beyond what it was forked with.

    First the cheap bound, in which each process counts what it shares with its relatives in full.
    """
    return sum(max(0, self._pages(pid) - self._start) for pid in self.members()) * _PAGE

  def exact_memory(self) -> int:
    """The same with every shared page counted once (proportional set sizes, slower to read)."""
    return sum(self._proportional(pid) for pid in self.members())

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
    return ids[self._depth] if len(ids) > self._depth else None

  def _namespaced(self, pid: int) -> list[int]:
    for line in self._read(f'{pid}/status').splitlines():
      if line.startswith('NSpid:'):
        return [int(x) for x in line.split()[1:]]
    return []

  def _pages(self, pid: int) -> int:
    fields = self._read(f'{pid}/statm').split()
    return int(fields[1]) if fields else 0

  def _children(self, pid: int) -> list[str]:
    return [child for tid in self._threads(pid) for child in self._read(f'{pid}/task/{tid}/children').split()]

  def _proportional(self, pid: int) -> int:
    for line in self._read(f'{pid}/smaps_rollup').splitlines():
      if line.startswith('Pss:'):
        return int(line.split()[1]) * 1024
    return self._pages(pid) * _PAGE  # not readable: no reason to count it less

  def _threads(self, pid: int) -> list[str]:
    try:
      fd = os.open(f'{pid}/task', os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
    except OSError:  # gone
      return []
    try:
      return os.listdir(fd)
    except OSError:
      return []
    finally:
      os.close(fd)

  def _read(self, path: str) -> str:
    """The text of a file of /proc; empty when its process is gone or out of reach."""
    try:
      fd = os.open(path, os.O_RDONLY, dir_fd=self.proc)
    except OSError:
      return ''
    try:
      return os.read(fd, 1 << 16).decode()
    except OSError:
      return ''
    finally:
      os.close(fd)
