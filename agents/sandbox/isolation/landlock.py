"""Landlock: without any privilege, this process keeps only the file trees named. linux/landlock.h."""

import ctypes
import os
import struct

from agents.sandbox.isolation import linux

_EXECUTE = 1
_WRITE_FILE = 2
_READ_FILE = 4
_READ_DIR = 8
_ALL = {3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}  # every file right, by version of the interface
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # 1 << 14: truncate
_NEEDED = 3  # the first that also guards truncation (Linux 6.2)


def version() -> int:
  """The interface's version. Raises OSError where the kernel has none or one too old."""
  found = linux.syscall('landlock_create_ruleset', None, 0, 1)
  if found < _NEEDED:
    raise OSError(f'Landlock version {found}, at least {_NEEDED} is needed')
  return found


def restrict(readable: list[str], writable: list[str]) -> None:
  """Keeps reading and executing under `readable`, everything under `writable`. Needs no_new_privs."""
  abi = version()
  everything = _ALL[min(abi, 5)]
  scoped = 3 if abi >= 6 else 0  # abstract sockets and signals stay inside
  attributes = struct.pack('QQQ', everything, 3 if abi >= 4 else 0, scoped)  # 3: bind and connect TCP, none allowed
  attributes = attributes[: 8 if abi < 4 else 16 if abi < 6 else 24]
  ruleset = linux.syscall('landlock_create_ruleset', attributes, len(attributes), 0)
  for paths, rights in ((readable, _READ), (writable, everything)):
    for path in paths:
      _add(ruleset, path, rights if os.path.isdir(path) else rights & _FILE_RIGHTS)
  linux.syscall('landlock_restrict_self', ruleset, 0)
  os.close(ruleset)


def _add(ruleset: int, path: str, rights: int) -> None:
  """Adds the tree or file at `path`."""
  fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
  rule = ctypes.create_string_buffer(struct.pack('=Qi', rights, fd))
  linux.syscall('landlock_add_rule', ruleset, 1, ctypes.addressof(rule), 0)
  os.close(fd)
