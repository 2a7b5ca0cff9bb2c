"""A bounded queue in front of an application: what cannot wait is told so at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from core.serving.http import asgi


class Full(RuntimeError):
  """Both the places and the queue for them are taken."""


class Admission:
  """At most `running` holders of a place at a time and at most `waiting` that wait for one, first come first served."""

  def __init__(self, *, running: int, waiting: int = 0):
    if running < 1 or waiting < 0:
      raise ValueError(f'running={running}, waiting={waiting}: expected running ≥ 1 and waiting ≥ 0')
    self.running = running
    self.waiting = waiting
    self.held = self.queued = 0
    self._places = asyncio.Semaphore(running)

  @contextlib.asynccontextmanager
  async def place(self) -> AsyncIterator[None]:
    """Holds a place. Raises Full when none is free and the queue is full."""
    if self._places.locked() and self.queued >= self.waiting:
      raise Full(f'{self.held} requests are running and {self.queued} are waiting')
    self.queued += 1
    try:
      await self._places.acquire()
    finally:
      self.queued -= 1
    self.held += 1
    try:
      yield
    finally:
      self.held -= 1
      self._places.release()


class Capacity:
  """A bound on what is in flight; nothing waits."""

  def __init__(self, most: int):
    if most < 1:
      raise ValueError(f'most={most}: expected 1 or more')
    self.most = most
    self.held = 0

  @contextlib.contextmanager
  def hold(self, count: int) -> Iterator[None]:
    """Holds `count` places. Raises Full when they are not free, ValueError if they never can be."""
    if count > self.most:
      raise ValueError(f'{count} samples asked for; this server has places for {self.most}')
    if self.held + count > self.most:
      raise Full(f'{self.held} samples are running or waiting, and {self.most} may')
    self.held += count
    try:
      yield
    finally:
      self.held -= count


class Admitted:
  """503 with Retry-After when the queue in front of the application is full; `open_paths` are always served."""

  def __init__(self, app: asgi.App, admission: Admission, *, open_paths: frozenset[str] = frozenset()):
    self.app = app
    self.admission = admission
    self.open_paths = open_paths

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope['type'] != 'http' or scope['path'] in self.open_paths:
      return await self.app(scope, receive, send)
    async with contextlib.AsyncExitStack() as stack:
      try:
        await stack.enter_async_context(self.admission.place())
      except Full as full:
        return await asgi.refuse(send, 503, str(full), {'retry-after': '1'})
      return await self.app(scope, receive, send)
