"""The parts put together: an application with its guards, a socket, and uvicorn until SIGTERM."""

import dataclasses
import ipaddress
import os
import signal
import socket
import stat
from collections.abc import Iterable, Sequence

from core.serving.admission import Admission, Admitted
from core.serving.http import access, asgi, bodies, connections

HEALTH = '/healthz'  # says `ok` to anyone, without a token


@dataclasses.dataclass(frozen=True)
class Bounds:
  """Limits of a server, in seconds, bytes and numbers of things at a time."""

  header_seconds: float = 10.0  # for the head of a request
  idle_seconds: float = 15.0  # without a byte of a body, or without a request on an open connection
  body_seconds: float = 120.0  # for a whole body
  write_seconds: float = 60.0  # for a client that does not read its response
  drain_seconds: float = 30.0  # for the requests that run when the server is told to end
  header_bytes: int = 16 << 10
  body_bytes: int = 64 << 20
  buffered_bytes: int = 512 << 20  # bodies of all requests together
  connections: int = 1024
  requests: int = 1024  # at a time; further ones get 503

  def __post_init__(self):
    for f in dataclasses.fields(self):
      if not getattr(self, f.name) > 0:
        raise ValueError(f'{f.name}={getattr(self, f.name)}: expected a positive number')


def guarded(
  app: asgi.App,
  *,
  token: str | None,
  hosts: Iterable[str] | None,
  types: Iterable[str] = ('application/json',),
  bounds: Bounds = Bounds(),
  open_paths: Iterable[str] = (),
) -> asgi.App:
  """The application behind every check, cheapest first; without a token or hosts (a unix socket) those are left out.

  open_paths: served without a token, such as a page on which the token is entered.
  """
  app = bodies.WholeBody(
    connections.Passed(app),
    max_bytes=bounds.body_bytes,
    max_buffered=bounds.buffered_bytes,
    idle=bounds.idle_seconds,
    total=bounds.body_seconds,
  )
  app = Admitted(app, Admission(running=bounds.requests), open_paths=frozenset({HEALTH}))
  app = access.ContentType(app, types)
  if token is not None:
    app = access.BearerToken(app, token, open_paths=(HEALTH, *open_paths))
  if hosts is not None:
    app = access.KnownHost(app, hosts)
  return _Health(app)


class _Health:
  """Answers GET /healthz before every check, so that supervisors need no token."""

  def __init__(self, app: asgi.App):
    self.app = app

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope['type'] == 'http' and scope['path'] == HEALTH and scope['method'] in ('GET', 'HEAD'):
      await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})
      return await send({'type': 'http.response.body', 'body': b'ok\n'})
    return await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
  """Whether an address to listen on is reached from this machine only."""
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'


def served_hosts(host: str, names: Sequence[str] = ()) -> list[str] | None:
  """The Host names that a server listening on `host` answers to; None for any, on a wildcard address without names."""
  if not names and host in ('', '0.0.0.0', '::'):
    return None
  return [*names, host.strip('[]'), *(access.LOOPBACK if is_loopback(host) else ())]


def choose_token(given: str, *, required: bool, host: str) -> tuple[str | None, bool]:
  """(the token of a TCP server, whether it was made here and must be shown): `given`, or a new one if required.

  Raises ValueError when it is not required on an address that other machines reach.
  """
  if given:
    return given, False
  if required:
    return access.new_token(), True
  if not is_loopback(host):
    raise ValueError(f'host={host}: other machines reach it, so a token is needed')
  return None, False


def listen(host: str, port: int) -> socket.socket:
  """A TCP socket that listens; port 0 picks one."""
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  sock = socket.create_server((host.strip('[]'), port), family=family, backlog=1024)
  # Of every connection: asyncio sets it only where a socket was made with the number of its protocol. A response's head
  # and its body are two packets, and the second would wait 40 ms for the first to be acknowledged.
  sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return sock


def listen_unix(path: str) -> socket.socket:
  """A unix socket that only this user can open. Raises ValueError when a file that is no socket has the path."""
  if os.path.lexists(path):
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
      raise ValueError(f'{path}: a file that is no socket has this path')
    os.unlink(path)
  sock = socket.socket(socket.AF_UNIX)
  previous = os.umask(0o177)
  try:
    sock.bind(path)
  finally:
    os.umask(previous)
  sock.listen(1024)
  return sock


class _Ending:
  """In front of uvicorn's server, which raises the signal that ended it again: its caller would close nothing."""

  def handle_exit(self, number, frame):
    if number == signal.SIGTERM:
      self.should_exit = True
    else:
      super().handle_exit(number, frame)


async def serve(app: asgi.App, sock: socket.socket, bounds: Bounds = Bounds()) -> None:
  """Serves until SIGTERM or SIGINT; then takes no new connections and lets running requests end, within bounds.

  Raises KeyboardInterrupt after SIGINT.
  """
  import uvicorn

  made = connections.protocol(
    connections=connections.most_connections(bounds.connections),
    header_seconds=bounds.header_seconds,
    write_seconds=bounds.write_seconds,
  )
  config = uvicorn.Config(
    app,
    http=made,
    ws='none',
    lifespan='off',
    # uvicorn's own configuration would close the streams of handlers that other libraries have set up.
    log_config=None,
    log_level='warning',
    server_header=False,
    h11_max_incomplete_event_size=bounds.header_bytes,
    timeout_keep_alive=max(int(bounds.idle_seconds), 1),
    timeout_graceful_shutdown=max(int(bounds.drain_seconds), 1),
  )
  ending = type('Server', (_Ending, uvicorn.Server), {})
  await ending(config).serve([sock])
