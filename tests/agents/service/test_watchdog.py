"""The server under the watchdog: how it ends."""

import signal
import socket
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from agents.service import watchdog
from core.serving import server

async def serve(sock, pool):
  print('serves', flush=True)
  try:
    await server.serve(None, sock)
  finally:
    print('closed', flush=True)

with server.listen('127.0.0.1', 0) as sock:
  print(sock.getsockname()[1], flush=True)
  sys.exit(watchdog.watch(sock, None, serve))
"""


def answers(port: int) -> bytes:
  """What the server says to something that is no request."""
  with socket.create_connection(('127.0.0.1', port), timeout=30) as sock:
    sock.sendall(b'?\r\n\r\n')
    return sock.recv(12)


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_that_is_told_to_end_closes_what_it_holds(number, status):
  with subprocess.Popen([sys.executable, '-c', PROGRAM], stdout=subprocess.PIPE, text=True) as process:
    port = int(process.stdout.readline())
    assert answers(port) == b'HTTP/1.1 400'
    process.send_signal(number)
    assert process.stdout.read() == 'serves\nclosed\n'
    assert process.wait(30) == status
