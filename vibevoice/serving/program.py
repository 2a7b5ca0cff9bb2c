"""What `python -m vibevoice.serve` runs: all input is checked before weights are loaded and programs are compiled."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

from core.serving import process, server
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
  listening = process.listening(
    host=options.host, port=options.port, token=token, required=options.token == 'required', variable=variable
  )
  bounds = server.Bounds(
    connections=options.connections,
    requests=options.connections,
    body_bytes=BODY_BYTES,
    drain_seconds=options.drain,
  )
  processor = Processor.load(options.model)
  recordings = clips(options.voices, processor.config)
  with listening as (sock, chosen), speaking(options, processor, recordings) as (service, worker):
    process.run(
      http.application(service),
      sock,
      token=chosen,
      host=options.host,
      names=options.names,
      bounds=bounds,
      open_paths=('/',),
    )
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
  with Worker(scheduler, stopped=process.stop) as worker:
    service = Service(processor, library, worker, offer=offer, admission=admission, limit=frames + MARGIN)
    yield service, worker
