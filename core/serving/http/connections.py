"""Connections of a uvicorn server: bounded in number and, while they are idle or half open, in time.

A client whose request has been served is read at once. The first request of every other waits in one lane, to which a
turn of the event loop gives little: a request takes about ten turns, so turns that serve a crowd of strangers would
delay every client that is known. Until its head is complete, a request costs no more than a copy.
"""

import asyncio
import collections
import os
import resource
from collections.abc import Callable

from core.serving.http import asgi

RESERVED = 64  # descriptors that are not for connections: files, pipes, libraries
STRANGERS = 2  # requests of strangers that begin in one turn of the event loop, at least
TURNS = 32  # a turn begins at least one in this many of those that wait
SERVED = 'espalier.served'  # set in the scope of a request that has passed every check


def most_connections(asked: int) -> int:
  """`asked`, or as many as the limit of file descriptors leaves; raises the soft limit as far as that needs.

  Raises ValueError when not even one is left. Beyond the limit of descriptors a server can no longer accept anything,
  and asyncio tries it over and over.
  """
  needed = asked + RESERVED + len(os.listdir('/proc/self/fd'))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft < needed and hard != soft:
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  left = asked - max(needed - soft, 0)
  if left < 1:
    raise ValueError(f'the limit of {soft} file descriptors leaves none for connections; raise it with ulimit -n')
  return left


def protocol(*, connections: int, header_seconds: float, write_seconds: float) -> type:
  """uvicorn's HTTP protocol with the bounds that it lacks.

  connections: more are closed as they come. header_seconds: for the whole head of a request, from the connection's
  start or from the first byte of a later request. write_seconds: for a client that does not read its response.
  """
  from uvicorn.protocols.http.h11_impl import H11Protocol

  bounds = {'most': connections, 'header_seconds': header_seconds, 'write_seconds': write_seconds, 'lane': Lane()}
  return type('BoundedProtocol', (_Bounded, H11Protocol), bounds)


class Passed:
  """Notes that a request has passed every check: the innermost of them. ASGI middleware."""

  def __init__(self, app: asgi.App):
    self.app = app

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    scope[SERVED] = True
    await self.app(scope, receive, send)


class Lane:
  """Work that waits, first in, first out: each turn of the event loop does STRANGERS pieces, or a share of many."""

  def __init__(self):
    self._waiting: collections.deque[Callable[[], None]] = collections.deque()
    self._awake = False

  def wait(self, work: Callable[[], None]) -> None:
    """Appends `work`, a function that does not raise."""
    self._waiting.append(work)
    self._wake()

  def _wake(self) -> None:
    if not self._awake:
      self._awake = True
      asyncio.get_running_loop().call_soon(self._turn)

  def _turn(self) -> None:
    self._awake = False
    count = max(STRANGERS, len(self._waiting) // TURNS)
    for _ in range(min(count, len(self._waiting))):
      work = self._waiting.popleft()
      work()
    if self._waiting:
      self._wake()


class _Bounded:
  """One connection with deadlines; in front of a protocol class of uvicorn."""

  _head_timer = _write_timer = None
  _known = False  # whether a request of this connection was served
  _unread = b''  # of a request that has not begun
  _waits = False  # whether it is in the lane

  def connection_made(self, transport):
    super().connection_made(transport)
    if len(self.connections) > self.most:
      transport.abort()
    self._expect_head()

  def data_received(self, data):
    if self._known or self._answering():
      self._read(data)
      return
    self._unread += data
    if not self._waits and self._whole_head():
      self._waits = True
      self._head_timer = _cancelled(self._head_timer)
      self.flow.pause_reading()  # nothing more until this is read
      self.lane.wait(self._read_waiting)

  def on_response_complete(self):
    self._known = self._known or SERVED in self.scope
    super().on_response_complete()

  def pause_writing(self):
    super().pause_writing()
    self._write_timer = self._write_timer or self.loop.call_later(self.write_seconds, self.transport.abort)

  def resume_writing(self):
    super().resume_writing()
    self._write_timer = _cancelled(self._write_timer)

  def connection_lost(self, exc):
    self._head_timer = _cancelled(self._head_timer)
    self._write_timer = _cancelled(self._write_timer)
    super().connection_lost(exc)

  def _whole_head(self) -> bool:
    """Whether the head of a request is complete, or longer than may be."""
    ends = b'\n\r\n' in self._unread or b'\n\n' in self._unread
    return ends or len(self._unread) > self.config.h11_max_incomplete_event_size

  def _read_waiting(self):
    data = self._unread
    self._unread = b''
    self._waits = False
    if not self.transport.is_closing():
      self.flow.resume_reading()
      self._read(data)

  def _answering(self) -> bool:
    """Whether a request has begun whose answer is not complete."""
    return self.cycle is not None and not self.cycle.response_complete

  def _read(self, data):
    super().data_received(data)
    self._expect_head()

  def _expect_head(self):
    """Starts the timer while no request is being answered, stops it once one is."""
    if self._answering():
      self._head_timer = _cancelled(self._head_timer)
    elif self._head_timer is None:
      self._head_timer = self.loop.call_later(self.header_seconds, self.transport.abort)


def _cancelled(timer) -> None:
  """Cancels a timer that may be None; returns the None to keep in its place."""
  if timer is not None:
    timer.cancel()
