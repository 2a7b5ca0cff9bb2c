"""A pool for each backend that this machine allows, and files and sockets of the host for snippets to reach for."""

import os
import pathlib
import shutil
import socket
import subprocess

import pytest

from agents.sandbox import Pool
from tests.agents.sandbox.hostile.containment import LIMITS, kernel_has

# A wrapping as docs/sandbox.md has it; bubblewrap's own processes are the monitor and process 1 of its namespace.
BWRAP = (
  'bwrap',
  '--ro-bind',
  '/',
  '/',
  '--dev',
  '/dev',
  '--proc',
  '/proc',
  '--bind',
  '/tmp',
  '/tmp',
  '--unshare-net',
  '--unshare-pid',
  '--die-with-parent',
)


@pytest.fixture(scope='module', params=['namespaces', 'landlock', 'bwrap'])
def pool(request):
  wrap = BWRAP if request.param == 'bwrap' else ()
  backend = 'namespaces' if wrap else request.param
  if wrap and not shutil.which('bwrap'):
    pytest.skip('bubblewrap is not installed')
  if wrap and subprocess.run([*wrap, 'true'], capture_output=True).returncode:
    pytest.skip('bubblewrap may make no namespaces here')
  if not kernel_has(backend):
    pytest.skip(f'this kernel has no {backend} for us')
  os.environ['SECRET'] = 'of the host'
  with Pool(3, LIMITS, profile='numpy', backend=backend, wrap=wrap) as pool:
    yield pool
  del os.environ['SECRET']


@pytest.fixture(scope='module')
def host(tmp_path_factory):
  """A file, a listening socket and a unix socket of the host."""
  folder = tmp_path_factory.mktemp('host')
  secret = folder / 'secret'
  secret.write_text('of the host')
  for path in (secret, *secret.parents):
    if path.owner() == pathlib.Path.home().owner() and str(path).startswith('/tmp/'):
      path.chmod(0o777)
  with (
    socket.create_server(('127.0.0.1', 0)) as tcp,
    socket.socket(socket.AF_UNIX) as unix,
    socket.socket(socket.AF_UNIX) as abstract,
  ):
    unix.bind(str(folder / 'socket'))
    unix.listen()
    abstract.bind('\0' + str(folder))
    abstract.listen()
    yield {'{secret}': repr(str(secret)), '{folder}': repr(str(folder)), '{listener}': repr(tcp.getsockname())}
  assert secret.read_text() == 'of the host'
  assert sorted(p.name for p in folder.iterdir()) == ['secret', 'socket']
