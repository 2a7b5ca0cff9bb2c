"""What `python -m vibevoice.serve` runs: all input is checked before weights are loaded and programs are compiled."""

import asyncio
import contextlib
import functools
import math
import os
import pathlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

from core.serving import server
from core.serving.admission import Admission
from vibevoice.config import SAMPLE_RATE
from vibevoice.inputs.processor import Processor
from vibevoice.serving import fields, http
from vibevoice.serving.library import Library, clips
from vibevoice.serving.service import Service
from vibevoice.serving.worker import Worker

BODY_BYTES = 1 << 20  # many times the longest script
MARGIN = 64  # tokens of a speech that are not frames


def run(options: Any, *, token: str, variable: str) -> int:
  """Serves as the options say; the exit status. variable: the name of the token's variable, printed with a new one."""
  token, is_new = server.choose_token(token, required=options.token == 'required', host=options.host)
  processor = Processor.load(options.model)
  recordings = clips(options.voices, processor.config)
  sock = server.listen(options.host, options.port)
  with sock, speaking(options, processor, recordings) as (service, worker):
    if is_new:
      print(f'{variable}={token}', flush=True)
    _announce(sock, token)
    # uvicorn raises the signal that ended it again, which would end the process before it can say why it ends.
    signal.signal(signal.SIGTERM, _noted)
    asyncio.run(serve(service, sock, options, token))
  if worker.error is not None:
    raise worker.error
  return 0


@contextlib.contextmanager
def speaking(options: Any, processor: Processor, recordings: dict) -> Iterator[tuple[Service, Worker]]:
  """The service, loaded and compiled, while its thread runs."""
  from vibevoice import terminal
  from vibevoice.generation import for_decoding
  from vibevoice.generation.rows import Rows
  from vibevoice.generation.scheduler import Scheduler

  config, params = terminal.load(options)
  params = for_decoding(params)  # for the library too: one copy of the weights
  library = Library(params, config, recordings)
  print(f'{len(recordings)} voices; compiling for {options.rows} rows', flush=True)
  scheduler = Scheduler(Rows(params, config, options.rows, steps=options.steps))
  name = options.name or pathlib.Path(options.model).resolve().name
  offer = fields.Offer(name, tuple(recordings), steps=options.steps, cfg_scale=options.cfg_scale)
  frames = math.ceil(options.minutes * 60 * SAMPLE_RATE / config.acoustic.hop)
  admission = Admission(running=options.rows, waiting=options.queue)
  with Worker(scheduler, stopped=_stop) as worker:
    service = Service(processor, library, worker, offer=offer, admission=admission, limit=frames + MARGIN)
    yield service, worker


async def serve(service: Service, sock: socket.socket, options: Any, token: str | None) -> None:
  """Serves until SIGTERM or SIGINT."""
  bounds = server.Bounds(
    connections=options.connections,
    requests=options.connections,
    body_bytes=BODY_BYTES,
    drain_seconds=options.drain,
  )
  hosts = server.served_hosts(options.host, options.names)
  guard = functools.partial(server.guarded, token=token, hosts=hosts, bounds=bounds, open_paths=('/',))
  await server.serve(guard(http.application(service)), sock, bounds)


def _announce(sock: socket.socket, token: str | None) -> None:
  host, port = sock.getsockname()[:2]
  where = f'[{host}]' if ':' in host else host
  # What follows # stays in the browser.
  print(f'listening on http://{where}:{port}/{f"#{token}" if token else ""}', flush=True)


def _noted(*_) -> None:
  """What a second SIGTERM does: nothing, because the server is ending."""


def _stop() -> None:
  """Ends the server: the rows' state is lost, so a supervisor should start another."""
  os.kill(os.getpid(), signal.SIGTERM)
