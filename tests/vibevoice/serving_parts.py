"""A speech server without a model: rows that speak a frame for each permit."""

import asyncio
import contextlib
import threading
import types

import numpy as np

from core.serving import server
from core.serving.admission import Admission
from tests.vibevoice import tiny
from tests.vibevoice.ledger import Ledger
from vibevoice.generation.scheduler import Scheduler
from vibevoice.inputs import voices
from vibevoice.serving import fields, http
from vibevoice.serving.service import Service
from vibevoice.serving.worker import Worker

OFFER = fields.Offer('tiny', ('ann', 'bob'), steps=2)
ASKED = {'model': 'tiny', 'input': 'Hello.', 'voice': 'ann'}
CLIP = voices.prepare(tiny.clip(3 * tiny.HOP), tiny.CONFIG)


class Gated(Ledger):
  """Rows that speak a frame for each permit."""

  longest, capacity, smallest, piece = 1024, 512, 512, 512

  def __init__(self):
    super().__init__()
    self.permits = threading.Semaphore(0)
    self.steps = 0

  def step(self, enter, leave):
    assert self.permits.acquire(timeout=20)
    self.steps += 1
    frame, ended = super().step(enter, leave)
    frame.samples = [np.full(tiny.HOP, 0.5, np.float32)] * self.count
    return frame, ended


class Silent:
  """Voices without a model."""

  def __init__(self):
    self.voices = {name: types.SimpleNamespace(clip=CLIP) for name in OFFER.voices}

  def latents(self, names, *, seed):
    return np.zeros((3 * len(names), tiny.CONFIG.acoustic.latent), np.float32)


@contextlib.contextmanager
def service(rows, voices_of=None, waiting=1):
  with Worker(Scheduler(rows)) as worker:
    admission = Admission(running=rows.count, waiting=waiting)
    parts = (tiny.processor(), voices_of or Silent(), worker)
    yield Service(*parts, offer=OFFER, admission=admission, limit=30)
    if isinstance(rows, Gated):
      rows.permits.release(1000)


def guarded(made: Service):
  return server.guarded(http.application(made), token=None, hosts=['127.0.0.1'], open_paths=('/',))


@contextlib.asynccontextmanager
async def listening(made: Service):
  """The port of a server on a real socket."""
  sock = server.listen('127.0.0.1', 0)
  task = asyncio.ensure_future(server.serve(guarded(made), sock))
  try:
    yield sock.getsockname()[1]
  finally:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sock.close()
