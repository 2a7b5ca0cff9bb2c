"""What every serving program does around its application: a token, an address that it says, a quiet end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence

from core.serving import server
from core.serving.http import asgi


@contextlib.contextmanager
def listening(*, host: str, port: int, token: str, required: bool, variable: str) -> Iterator[tuple]:
  """(socket, token or None) of a program; what it prints when it is ready follows in `run`.

  token: that of the environment variable `variable`, '' without one. Raises ValueError and OSError before long work.
  """
  chosen, is_new = server.choose_token(token, required=required, host=host)
  with server.listen(host, port) as sock:
    if is_new:
      print(f'{variable}={chosen}', flush=True)
    yield sock, chosen


def run(
  app: asgi.App,
  sock: socket.socket,
  *,
  token: str | None,
  host: str,
  names: Sequence[str],
  bounds: server.Bounds,
  open_paths: Sequence[str] = (),
) -> None:
  """Says where it listens and serves until SIGTERM or SIGINT."""
  announce(sock, token)
  hosts = server.served_hosts(host, names)
  guarded = server.guarded(app, token=token, hosts=hosts, bounds=bounds, open_paths=open_paths)
  asyncio.run(server.serve(guarded, sock, bounds))
  signal.signal(signal.SIGTERM, _ignored)  # one that `stop` sends meanwhile


def until_told(work: Coroutine) -> None:
  """Runs what would never end until SIGTERM or SIGINT."""

  async def both() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
      loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
      await task

  asyncio.run(both())


def announce(sock: socket.socket, token: str | None) -> None:
  """Prints the address; the token after # stays in the browser."""
  print(f'listening on {url(sock)}/{f"#{token}" if token else ""}', flush=True)


def url(sock: socket.socket) -> str:
  """The address of a listening socket as clients write it: http://host:port, or unix:/path."""
  if sock.family == socket.AF_UNIX:
    return f'unix:{sock.getsockname()}'
  host, port = sock.getsockname()[:2]
  where = host
  if ':' in host:
    where = f'[{host}]'
  return f'http://{where}:{port}'


def stop() -> None:
  """Ends the server, so that a supervisor starts another: the state of the device is lost."""
  os.kill(os.getpid(), signal.SIGTERM)


def _ignored(*_) -> None:
  """What a second SIGTERM does: nothing, because the server is ending."""
