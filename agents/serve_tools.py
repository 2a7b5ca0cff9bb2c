"""Serves isolated Python over HTTP: `python -m agents.serve_tools --port=8765` or `--uds=/run/tools.sock`.

`agents.service.http` lists the routes. Over TCP each request needs a bearer token: that of the environment variable
ESPALIER_TOOLS_TOKEN or, without it, one that is made and printed at the start. --token=none serves this machine without
one. A unix socket needs none: only this user can open it. Requests of web pages and of a wrong Host are refused.

The process holds the socket and the pool's seed and forks a server that does the work; a server that dies is replaced
at once, and callers that connect meanwhile wait in the socket's queue. SIGTERM lets running calls end.
"""

import dataclasses
import os
import socket
import sys
from collections.abc import Sequence
from typing import Literal

from agents.sandbox import PROFILES, Limits, Pool
from core.launch import command
from core.launch.fields import field
from core.serving import process, server

TOKEN = 'ESPALIER_TOOLS_TOKEN'


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  workers: int = field(os.cpu_count() or 1, 'calls at once', low=1)
  profile: Literal[tuple(sorted(PROFILES))] = field('sympy', 'what is preloaded')
  backend: Literal['namespaces', 'landlock', 'rlimits'] | None = field(
    None, 'isolation; by default the strongest that this machine offers'
  )
  wall: float = field(4.0, 'seconds a call may take', low=0.01)
  memory: int = field(512, 'MiB a call may use', low=1)
  queue: int = field(4096, 'calls that may wait', low=1)
  uds: str | None = field(None, 'path of a unix socket to serve on, instead of a port')
  host: str = field('127.0.0.1', 'address to serve on')
  port: int = field(8765, 'port to serve on; 0 picks one', low=0, high=65535)
  token: Literal['required', 'none'] = field(
    'required', f'whether TCP requests need the token of {TOKEN}; none: not, on loopback only'
  )
  names: tuple[str, ...] = field((), 'further Host names to answer to, such as that of a proxy in front')
  connections: int = field(4096, 'connections at once', low=1)


def guards(options: Options) -> tuple[str | None, list[str] | None]:
  """(token, Host names) that requests must have; prints a token that was made here."""
  given = os.environ.get(TOKEN, '')
  if options.uds:
    return given or None, None
  token, fresh = server.choose_token(given, required=options.token == 'required', host=options.host)
  if fresh:
    print(f'{TOKEN}={token}', flush=True)
  return token, server.served_hosts(options.host, options.names)


def work(options: Options) -> int:
  """Holds the socket and watches over the server; the exit status."""
  from agents.service import http, watchdog
  from agents.service.dispatcher import Dispatcher

  token, hosts = guards(options)
  bounds = server.Bounds(connections=options.connections, requests=2 * options.queue)

  async def serve(sock: socket.socket, pool: Pool) -> None:
    dispatcher = Dispatcher(pool, queue=options.queue)
    app = server.guarded(http.application(dispatcher), token=token, hosts=hosts, types=http.TYPES, bounds=bounds)
    try:
      await server.serve(app, sock, bounds)
    finally:
      await dispatcher.close()

  sock = server.listen_unix(options.uds) if options.uds else server.listen(options.host, options.port)
  print(f'listening on {process.url(sock)}', flush=True)
  limits = Limits(wall=options.wall, cpu=options.wall, memory=options.memory * 2**20)
  with sock, Pool(options.workers, limits, profile=options.profile, backend=options.backend) as pool:
    print(f'{pool.workers} workers, profile {pool.profile}. {pool.report}', flush=True)
    return watchdog.watch(sock, pool, serve)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
