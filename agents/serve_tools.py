"""Serves isolated Python over HTTP: `python -m agents.serve_tools --port=8765` or `--uds=/run/tools.sock`.

  POST /run      {"trajectory", "code", "stdin"?, "files"?, "keep"?, "limits"?, "wait"?} → a Result as JSON
  POST /batch    such objects, one a line → {"index": …, …Result} lines, in the order in which they end
  POST /forget   {"trajectory"} → drops its kept state
  GET  /metrics  counts and latencies;  GET /health  the backend and what its self-test found

`stdin` and files are strings, or {"base64": …} for bytes. Limits may only be lowered. A full queue answers 429 to a
call with "wait": false. With the environment variable ESPALIER_TOOLS_TOKEN set, each request needs it as a bearer
token; without it, only loopback and unix sockets are served. The process holds the socket and the pool's seed and
forks a server that does the work; a server that dies is replaced at once, and callers that connect meanwhile wait in
the socket's queue.
"""

import asyncio
import base64
import dataclasses
import hmac
import ipaddress
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator

import uvicorn
from absl import app, flags
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from agents.sandbox import PROFILES, HarnessError, Limits, Pool, linux
from agents.service.dispatcher import Dispatcher, Full

TOKEN = 'ESPALIER_TOOLS_TOKEN'
_LARGEST = 64 * 2**20  # bytes of a request
_SOON, _FAILURES = 10.0, 4  # seconds; failures in a row that are given up on
_FIELDS = {'trajectory', 'code', 'stdin', 'files', 'keep', 'limits', 'wait'}

FLAGS = flags.FLAGS


class Guard:
  """Refuses requests without the token, and bodies beyond reason."""

  def __init__(self, app, token: str | None):
    self.app, self.token = app, token

  async def __call__(self, scope, receive, send):
    if scope['type'] == 'http':
      headers = dict(scope['headers'])
      given = headers.get(b'authorization', b'')
      if self.token and not hmac.compare_digest(given, f'Bearer {self.token}'.encode()):
        return await PlainTextResponse('a bearer token is needed', 401)(scope, receive, send)
      length = headers.get(b'content-length', b'')
      if scope['method'] == 'POST' and not (length.isdigit() and int(length) <= _LARGEST):
        return await PlainTextResponse(f'expected a Content-Length of at most {_LARGEST}', 413)(scope, receive, send)
    return await self.app(scope, receive, send)


def application(dispatcher: Dispatcher, token: str | None = None) -> Starlette:
  """The service over a dispatcher, as an ASGI application."""

  async def run(request: Request):
    try:
      result = await _run(dispatcher, json.loads(await request.body()))
    except Full as error:
      return PlainTextResponse(str(error), 429)
    except ValueError as error:
      return PlainTextResponse(str(error), 400)
    return JSONResponse(dataclasses.asdict(result))

  async def batch(request: Request):
    lines = [line for line in (await request.body()).splitlines() if line.strip()]
    return StreamingResponse(_batch(dispatcher, lines), media_type='application/jsonl')

  async def forget(request: Request):
    try:
      name = json.loads(await request.body())['trajectory']
    except (ValueError, KeyError, TypeError):
      return PlainTextResponse('expected {"trajectory": …}', 400)
    await dispatcher.forget(str(name))
    return JSONResponse({})

  async def metrics(_):
    return JSONResponse(dispatcher.figures())

  async def health(_):
    return JSONResponse({'backend': dispatcher.pool.backend, 'report': dispatcher.pool.report})

  routes = [
    Route('/run', run, methods=['POST']),
    Route('/batch', batch, methods=['POST']),
    Route('/forget', forget, methods=['POST']),
    Route('/metrics', metrics),
    Route('/health', health),
  ]
  return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


async def _batch(dispatcher: Dispatcher, lines: list[bytes]) -> AsyncIterator[bytes]:
  """Answers to the lines, as they come."""

  async def one(index: int, line: bytes) -> dict:
    try:
      return {'index': index, **dataclasses.asdict(await _run(dispatcher, json.loads(line)))}
    except (Full, ValueError) as error:
      return {'index': index, 'refused': str(error)}

  for answer in asyncio.as_completed([one(i, line) for i, line in enumerate(lines)]):
    yield json.dumps(await answer).encode() + b'\n'


async def _run(dispatcher: Dispatcher, body: object):
  """Runs a call given as JSON. Raises ValueError on one that is not well formed."""
  if not isinstance(body, dict) or not isinstance(body.get('trajectory'), str) or not body.keys() <= _FIELDS:
    raise ValueError(f'expected an object with "trajectory", "code" and perhaps others of {sorted(_FIELDS)}')
  files = body.get('files', {})
  if not isinstance(files, dict):
    raise ValueError('"files": expected an object')
  return await dispatcher.run(
    body['trajectory'],
    body.get('code'),
    stdin=_content(body.get('stdin', '')),
    files={name: _content(value) for name, value in files.items()},
    keep=bool(body.get('keep', False)),
    wait=bool(body.get('wait', True)),
    limits=lowered(dispatcher.pool.limits, body.get('limits')),
  )


def lowered(limits: Limits, asked: object) -> Limits:
  """The limits with those asked for, each only where it is lower. Raises ValueError on a name or value unknown."""
  if asked is None:
    return limits
  known = dataclasses.asdict(limits)
  if not isinstance(asked, dict) or not asked.keys() <= known.keys():
    raise ValueError(f'"limits": {asked!r}, expected an object with some of {sorted(known)}')
  checked = dataclasses.asdict(dataclasses.replace(limits, **asked))
  return Limits(**{name: min(value, known[name]) for name, value in checked.items()})


def _content(value: object) -> str | bytes:
  if isinstance(value, str):
    return value
  if isinstance(value, dict) and value.keys() == {'base64'} and isinstance(value['base64'], str):
    return base64.b64decode(value['base64'], validate=True)
  raise ValueError(f'expected a string or {{"base64": …}}, not {type(value).__name__}')


def listen(uds: str | None, host: str, port: int, token: str | None) -> socket.socket:
  """The service's socket. Raises ValueError when it would be open to others without a token."""
  if uds:
    sock = socket.socket(socket.AF_UNIX)
    if os.path.exists(uds):
      os.unlink(uds)
    previous = os.umask(0o177)
    try:
      sock.bind(uds)
    finally:
      os.umask(previous)
  else:
    if not ipaddress.ip_address(host).is_loopback and not token:
      raise ValueError(f'host={host}: set {TOKEN} to serve others than this machine')
    sock = socket.create_server((host, port))
  sock.listen(1024)
  return sock


def work(sock: socket.socket, pool: Pool) -> None:
  """The server process: a dispatcher on the inherited pool, and uvicorn on the inherited socket."""

  async def serve():
    dispatcher = Dispatcher(pool, queue=FLAGS.queue)
    config = uvicorn.Config(
      application(dispatcher, os.environ.get(TOKEN)),
      log_level='warning',
      lifespan='off',
      limit_concurrency=2 * FLAGS.queue,
    )  # beyond it 503, and clients try again
    try:
      await uvicorn.Server(config).serve([sock])
    finally:
      await dispatcher.close()

  asyncio.run(serve())


def fork_server(sock: socket.socket, pool: Pool) -> int:
  """Forks the server, which dies with us; its process id. Everything is imported and loaded, so it starts at once."""
  holder = os.getpid()
  if pid := os.fork():
    return pid
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
  try:
    if os.getppid() == holder:
      work(sock, pool)
  except BaseException:
    traceback.print_exc()
    os._exit(1)
  os._exit(0)


def watch(sock: socket.socket, pool: Pool) -> int:
  """Keeps a server running on the socket; ends when it ends of itself, or fails soon several times in a row."""
  server, failures = 0, 0

  def stop(number, _):
    if server:
      os.kill(server, number)

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
  while True:
    started = time.monotonic()
    server = fork_server(sock, pool)
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    if code == 0 or code in (-signal.SIGINT, -signal.SIGTERM):
      return 0
    failures = failures + 1 if code > 0 and time.monotonic() - started < _SOON else 0
    if failures == _FAILURES:  # it cannot start: once more would be the same
      return 1
    print(f'the server ended with {code}; starting another', file=sys.stderr, flush=True)
    try:
      pool.renew()  # what the dead one had asked of the zygote is not for the next
    except HarnessError as error:  # the next server tries again for each call
      print(error, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
  """Holds the socket and watches over the server."""
  try:
    sock = listen(FLAGS.uds, FLAGS.host, FLAGS.port, os.environ.get(TOKEN))
  except (ValueError, OSError) as error:
    raise app.UsageError(f'cannot listen: {error}') from error
  print(f'listening on {FLAGS.uds or sock.getsockname()}', flush=True)
  limits = Limits(wall=FLAGS.wall, cpu=FLAGS.wall, memory=FLAGS.memory * 2**20)
  with Pool(FLAGS.workers, limits, profile=FLAGS.profile, backend=FLAGS.backend) as pool:
    print(f'{pool.workers} workers, profile {pool.profile}. {pool.report}', flush=True)
    code = watch(sock, pool)
  sys.exit(code)


if __name__ == '__main__':
  flags.DEFINE_integer('workers', os.cpu_count() or 1, 'calls at once', lower_bound=1)
  flags.DEFINE_enum('profile', 'sympy', sorted(PROFILES), 'what is preloaded')
  flags.DEFINE_enum('backend', None, ['namespaces', 'landlock', 'rlimits'], 'isolation; by default the strongest here')
  flags.DEFINE_float('wall', 4.0, 'seconds a call may take', lower_bound=0.01)
  flags.DEFINE_integer('memory', 512, 'MiB a call may use', lower_bound=1)
  flags.DEFINE_integer('queue', 4096, 'calls that may wait', lower_bound=1)
  flags.DEFINE_string('uds', None, 'path of a unix socket to serve on, instead of a port')
  flags.DEFINE_string('host', '127.0.0.1', 'address to serve on')
  flags.DEFINE_integer('port', 8765, 'port to serve on; 0 picks one')
  app.run(main)
