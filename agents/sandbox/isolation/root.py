"""The host's files that sandboxed code can see: Python, the libraries it has loaded, two devices; all read-only."""

import glob
import os
import pathlib
import re
import sys
import sysconfig

from agents.sandbox.isolation import linux

DEVICES = ('/dev/null', '/dev/urandom')
_READ_ONLY = linux.ATTR_RDONLY | linux.ATTR_NOSUID


def readable() -> list[str]:
  """The host's trees and files that Python needs to import modules and to restart itself; none contains another.

  For a Python in /usr only its library folders, never all of /usr.
  """
  programs = {sys.executable, os.path.realpath(sys.executable)}
  prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
  libraries = {sysconfig.get_path(name) for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')}
  imported = set(filter(None, sys.path))
  wanted = programs | _shared_objects() | libraries
  wanted |= prefixes - {'/', '/usr'}
  wanted |= imported - {_project()}
  existing = filter(os.path.exists, wanted)
  return _outermost([os.path.abspath(path) for path in existing])


def _outermost(paths: list[str]) -> list[str]:
  """The paths that are in none of the others, sorted; never the root."""
  outer: list[str] = []
  for path in sorted(paths):
    is_inside = any(path == other or path.startswith(f'{other}/') for other in outer)
    if path != '/' and not is_inside:
      outer.append(path)
  return outer


def _project() -> str:
  """The folder of this project, which is on sys.path only to start the zygote."""
  here = pathlib.Path(os.path.abspath(__file__))
  return str(here.parents[3])


def _shared_objects() -> set[str]:
  """The system library folders (named lib…) of the shared objects loaded now, and the program loader."""
  with open('/proc/self/maps', encoding='utf-8') as maps:
    text = maps.read()
  files = set(re.findall(r'(/\S+\.so[.\d]*)$', text, re.MULTILINE))
  folders = {os.path.dirname(path) for path in files}
  libraries = {folder for folder in folders if re.match(r'/(usr/)?lib', folder)}
  loaders = {path for path in files if '/ld-linux' in path or '/ld-musl' in path}
  return libraries | loaders


def _links() -> dict[str, str]:
  """The system's symlinks to the libraries and the program loader: path → target."""
  paths = ['/lib', '/lib64', '/usr/lib64']
  for loader in glob.glob('/lib*/ld-*.so*'):
    folder, name = os.path.split(loader)
    paths.append(os.path.join(os.path.realpath(folder), name))
  return {path: os.readlink(path) for path in paths if os.path.islink(path)}


def scratch(paths: list[str]) -> str:
  """The path of the writable folder in the new root: /tmp, unless a needed tree is below /tmp."""
  if any(path.startswith('/tmp/') for path in paths):
    return '/scratch'
  return '/tmp'


def build(paths: list[str]) -> list[tuple[str, int, bool]]:
  """Detached read-only copies of the trees at `paths` and of the devices: [(path, descriptor, is a folder)].

  Made while this process still has its first user id, perhaps the only one with access to them.
  """
  mounts = []
  for path in (*paths, *DEVICES):
    flags = _READ_ONLY
    if path not in DEVICES:
      flags |= linux.ATTR_NODEV
    descriptor = linux.copy_mount(path, flags)
    mounts.append((path, descriptor, os.path.isdir(path)))
  return mounts


def enter(mounts: list[tuple[str, int, bool]], scratch: str) -> None:
  """Enters a new root of these mounts, the symlinks to them and a scratch folder, and makes it read-only."""
  linux.mount(None, '/', linux.MS_REC | linux.MS_PRIVATE)
  base = '/proc'  # any existing folder that nothing here needs
  links = _links()
  linux.mount('tmpfs', base, linux.MS_NOSUID | linux.MS_NODEV, 'mode=755,size=1m,nr_inodes=1k')
  for path, fd, folder in mounts:
    target = base + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if folder:
      os.makedirs(target, exist_ok=True)
    else:
      open(target, 'xb').close()
    linux.attach_mount(fd, target)
  for path, target in links.items():
    os.makedirs(os.path.dirname(base + path), exist_ok=True)
    if not os.path.lexists(base + path):
      os.symlink(target, base + path)
  os.mkdir(base + scratch)
  if not os.path.lexists(f'{base}/dev/shm'):  # it exists only if Python itself is below it
    os.symlink(scratch, f'{base}/dev/shm')  # semaphores and shared memory have names there; they count as files
  linux.pivot(base)
  linux.mount(None, '/', linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
