"""Chooses the backend by trying to get out of each one."""

import os
import tempfile
from collections.abc import Callable

from agents.sandbox.isolation.backends import BACKENDS
from agents.sandbox.limits import HarnessError, Limits

AUTOMATIC = ('namespaces', 'landlock')  # strongest first; rlimits only by name
_LIMITS = Limits(wall=10.0, tasks=8, memory=2**28)

# Each attempt must fail, by what the system says; what succeeds is printed, and any other failure fails the test.
_ATTEMPTS = """
import ctypes, fcntl, os, resource, signal, socket
def attempt(name, what):
  try:
    what()
    print(name, flush=True)
  except OSError:
    return
def done(result):
  if result:
    raise OSError('refused')
def read(path):
  with open(path, 'rb') as f:
    f.read(1)
def forks():
  for _ in range(64):
    if os.fork() == 0:
      signal.pause()
attempt('reads a file of the host', lambda: read({canary!r}))
attempt('writes a file of the host', lambda: read({canary!r} + open({canary!r} + '.new', 'w').name))
attempt('sees other processes', lambda: read('/proc/1/status'))
attempt('signals its parent', lambda: os.kill(os.getppid() or 1 << 22, 0))
attempt('limits its parent', lambda: resource.prlimit(os.getppid() or 1 << 22, resource.RLIMIT_NOFILE))
attempt('locks a file of all', lambda: fcntl.flock(0, fcntl.LOCK_EX))
attempt('makes a socket', lambda: socket.socket())
attempt('makes a namespace', lambda: done(ctypes.CDLL(None).unshare(0x10000000)))
attempt('keeps a capability', lambda: os.chroot('/'))
attempt('forks without end', forks)
"""


def choose(name: str | None, launch: Callable) -> tuple[str, str, object]:
  """The backend's name, what was found, and the running zygote. `launch(backend)` starts a zygote.

  Raises ValueError on an unknown name, HarnessError when none of the candidates holds.
  """
  if name is not None and name not in BACKENDS:
    raise ValueError(f'backend={name!r}: expected one of {sorted(BACKENDS)} or None')
  found = []
  for backend in AUTOMATIC if name is None else (name,):
    zygote = None
    try:
      zygote = launch(backend)
      if backend in AUTOMATIC:
        _prove(zygote)
    except (OSError, HarnessError) as error:
      found.append(f'{backend}: {error}')
      if zygote:
        zygote.close()
      continue
    found.append(f'{backend}: holds' if backend in AUTOMATIC else f'{backend}: NO ISOLATION, asked for by name')
    return backend, '; '.join(found), zygote
  raise HarnessError(
    'no sandbox holds on this machine. ' + '; '.join(found) + '. For code that you trust, ask for backend="rlimits".'
  )


def _prove(zygote) -> None:
  """Runs the attempts. Raises HarnessError naming what the code could do."""
  from agents.sandbox.wire import exchange, request

  slot = zygote.slot()
  try:
    with tempfile.TemporaryDirectory() as folder:
      canary = os.path.join(folder, 'canary')
      with open(canary, 'wb') as f:
        f.write(b'alive')
      os.chmod(folder, 0o777)
      code = _ATTEMPTS.replace('{canary!r}', repr(canary))
      result, _ = exchange(slot, request(code, '', None, _LIMITS, session=False), _LIMITS, 0.0)
  finally:
    slot.close()
  if result.stdout:
    raise HarnessError('code ' + ', '.join(result.stdout.splitlines()))
  if not result.ok:
    raise HarnessError(f'the self-test ended with {result.status}: {result.reason} {result.stderr}'.strip())
