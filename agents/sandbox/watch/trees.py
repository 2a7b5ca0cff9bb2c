"""Folders that hostile code filled: how large they are, and their removal. No recursion and no long paths."""

import os
import secrets
import stat

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEEPEST = 128  # levels that a watched folder may have; each is an open descriptor of the walk
_SHOWN = 80  # characters of a name in a message


class Unwatchable(Exception):
  """The size of a folder cannot be told."""


class _Count:
  """Bytes and entries counted so far, and the number of entries that is enough."""

  def __init__(self, enough: int):
    self.size = self.entries = 0
    self.enough = enough

  def add(self, entry: os.DirEntry) -> None:
    self.entries += 1
    self.size += entry.stat(follow_symlinks=False).st_blocks * 512


def usage(folder: str, enough: int) -> tuple[int, int]:
  """Bytes and entries below `folder`, which may change meanwhile; stops counting after `enough` entries.

  Raises Unwatchable for a folder that cannot be read or is nested more than `DEEPEST` deep: what is in it is not
  known, so it must not count as nothing.
  """
  count = _Count(enough)
  levels: list[tuple[int, list[str]]] = []  # of the present path: descriptors, and subfolders still to be visited
  try:
    _descend(levels, folder, None, count)
    while levels and count.entries <= enough:
      descriptor, names = levels[-1]
      if names:
        _descend(levels, names.pop(), descriptor, count)
      else:
        os.close(descriptor)
        levels.pop()
  except PermissionError as error:
    raise Unwatchable(f'{_shown(error.filename)}: {error.strerror}') from error
  finally:
    for descriptor, _ in levels:
      os.close(descriptor)
  return count.size, count.entries


def _descend(levels: list[tuple[int, list[str]]], name: str, parent: int | None, count: _Count) -> None:
  """Opens a folder, counts its entries and appends it to the levels."""
  if len(levels) == DEEPEST:
    raise Unwatchable(f'folders nested more than {DEEPEST} deep')
  try:
    descriptor = os.open(name, _FOLDER, dir_fd=parent)
  except (FileNotFoundError, NotADirectoryError):  # removed or replaced meanwhile
    return
  subfolders: list[str] = []
  levels.append((descriptor, subfolders))
  with os.scandir(descriptor) as entries:
    for entry in entries:
      if count.entries > count.enough:
        return
      try:
        count.add(entry)
      except FileNotFoundError:  # removed meanwhile
        continue
      if entry.is_dir(follow_symlinks=False):
        subfolders.append(entry.name)


def remove(folder: str) -> list[str]:
  """Removes `folder` with all that is in it; returns what could not be removed and why, empty if all is gone.

  A subfolder is moved to the top before it is emptied. So the depth of the tree does not matter, two descriptors are
  enough, and a folder without permissions is opened up before anything below it is needed.
  """
  problems: list[str] = []
  try:
    top = _open_writable(folder, None)
  except FileNotFoundError:
    return problems
  except OSError as error:
    return [_problem(folder, error)]
  try:
    mover = _Mover(top, folder, problems)
    mover.empty(top, '.')
    while mover.waiting:
      mover.remove_next()
  finally:
    os.close(top)
  try:
    os.rmdir(folder)
  except OSError as error:
    if not problems:
      problems.append(_problem(folder, error))
  return problems


class _Mover:
  """Empties folders into the top one. `waiting` has the names there of folders that are not empty yet."""

  def __init__(self, top: int, path: str, problems: list[str]):
    self.top = top
    self.path = path
    self.problems = problems
    self.waiting: list[str] = []
    self.prefix = secrets.token_hex(8)
    self.moved = 0

  def remove_next(self) -> None:
    name = self.waiting.pop()
    before = len(self.problems)
    try:
      descriptor = _open_writable(name, self.top)
      try:
        self.empty(descriptor, name)
      finally:
        os.close(descriptor)
      os.rmdir(name, dir_fd=self.top)
    except OSError as error:
      if len(self.problems) == before:  # otherwise it is not empty for a reason that is told already
        self.problems.append(_problem(f'{self.path}/{name}', error))

  def empty(self, descriptor: int, name: str) -> None:
    """Removes the files of an open folder and moves its subfolders to the top."""
    with os.scandir(descriptor) as entries:
      found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for entry, is_folder in found:
      try:
        if is_folder:
          self._move(entry, descriptor)
        else:
          os.unlink(entry, dir_fd=descriptor)
      except FileNotFoundError:
        continue
      except OSError as error:
        self.problems.append(_problem(f'{self.path}/{name}/{entry}', error))

  def _move(self, name: str, parent: int) -> None:
    if parent == self.top:
      self.waiting.append(name)
      return
    os.close(_open_writable(name, parent))  # a folder is moved only by somebody who may write in it
    self.moved += 1
    target = f'{self.prefix}-{self.moved}'
    os.rename(name, target, src_dir_fd=parent, dst_dir_fd=self.top)
    self.waiting.append(target)


def _open_writable(name: str, parent: int | None) -> int:
  """Opens a folder after giving its owner every permission. Follows no symlink."""
  handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
  try:
    if stat.S_IMODE(os.fstat(handle).st_mode) & 0o700 != 0o700:
      # chmod cannot be told not to follow a symlink; the descriptor's own name in /proc is none that others can swap.
      os.chmod(f'/proc/self/fd/{handle}', 0o700)
    return os.open('.', _FOLDER, dir_fd=handle)
  finally:
    os.close(handle)


def _problem(path: str, error: OSError) -> str:
  return f'{_shown(path)}: {error.strerror}'


def _shown(path: str | int | None) -> str:
  """A path as printable text of bounded length."""
  text = 'a folder'
  if isinstance(path, str):
    text = ascii(path)[1:-1]
  if len(text) <= 2 * _SHOWN:
    return text
  return f'{text[:_SHOWN]}…{text[-_SHOWN:]}'
