"""What the code may see of the host's files: Python, the libraries it has loaded, two devices; all read-only."""

import glob
import os
import re
import sys
import sysconfig

from agents.sandbox import linux

DEVICES = ('/dev/null', '/dev/urandom')
_READ_ONLY = linux.ATTR_RDONLY | linux.ATTR_NOSUID


def readable() -> list[str]:
  """The host's trees and files that Python needs to go on importing and to run itself again; none inside another.

  Of a Python under /usr only its own library folders, never /usr whole.
  """
  wanted = {sys.executable, os.path.realpath(sys.executable), *_shared_objects()}
  for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
    wanted |= {prefix} if prefix not in ('/', '/usr') else set()
  wanted |= {sysconfig.get_path(name) for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')}
  wanted |= {p for p in sys.path if p and os.path.exists(p)} - {_own()}
  outer: list[str] = []
  for path in sorted(os.path.abspath(p) for p in wanted if os.path.exists(p)):
    if path != '/' and not any(path == o or path.startswith(o + '/') for o in outer):
      outer.append(path)
  return outer


def _own() -> str:
  """The folder that holds this project, on sys.path only to start the zygote."""
  return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _shared_objects() -> set[str]:
  """The system library folders (those named lib…) of the shared objects loaded now, and the loader."""
  with open('/proc/self/maps', encoding='utf-8') as maps:
    files = set(re.findall(r'(/\S+\.so[.\d]*)$', maps.read(), re.MULTILINE))
  folders = {os.path.dirname(f) for f in files}
  return {f for f in folders if re.match(r'/(usr/)?lib', f)} | {f for f in files if '/ld-linux' in f or '/ld-musl' in f}


def _links() -> dict[str, str]:
  """The system's symlinks on the way to the libraries and the program loader: where each lies, what it says."""
  loaders = [
    os.path.join(os.path.realpath(os.path.dirname(p)), os.path.basename(p)) for p in glob.glob('/lib*/ld-*.so*')
  ]
  return {p: os.readlink(p) for p in ('/lib', '/lib64', '/usr/lib64', *loaders) if os.path.islink(p)}


def scratch(paths: list[str]) -> str:
  """Where the writable folder lies in the new root: /tmp, unless a tree that is needed lies below it."""
  return '/scratch' if any(p.startswith('/tmp/') for p in paths) else '/tmp'


def build(paths: list[str]) -> list[tuple[str, int, bool]]:
  """Detached read-only copies of the trees at `paths` and of the devices: where each belongs, it, whether a folder.

  Copied while this process still has its first user id, which may be the only one that can reach them.
  """
  return [
    (p, linux.copy_mount(p, _READ_ONLY | (0 if p in DEVICES else linux.ATTR_NODEV)), os.path.isdir(p))
    for p in (*paths, *DEVICES)
  ]


def enter(mounts: list[tuple[str, int, bool]], scratch: str) -> None:
  """Makes a new root of these mounts, the symlinks that lead to them and a scratch folder; closes it to writing."""
  linux.mount(None, '/', linux.MS_REC | linux.MS_PRIVATE)
  base = '/proc'  # any folder that exists and is in nobody's way
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
  linux.pivot(base)
  linux.mount(None, '/', linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
