"""Connections of a uvicorn server: bounded in number and, while they are idle or half open, in time."""

import os
import resource

RESERVED = 64  # descriptors that are not for connections: files, pipes, libraries


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

  bounds = {'most': connections, 'header_seconds': header_seconds, 'write_seconds': write_seconds}
  return type('BoundedProtocol', (_Bounded, H11Protocol), bounds)


class _Bounded:
  """One connection with deadlines; in front of a protocol class of uvicorn."""

  _head_timer = _write_timer = None

  def connection_made(self, transport):
    super().connection_made(transport)
    if len(self.connections) > self.most:
      transport.abort()
    self._expect_head()

  def data_received(self, data):
    super().data_received(data)
    self._expect_head()

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

  def _expect_head(self):
    """Starts the timer while no request is being answered, stops it once one is."""
    if self.cycle is not None and not self.cycle.response_complete:
      self._head_timer = _cancelled(self._head_timer)
    elif self._head_timer is None:
      self._head_timer = self.loop.call_later(self.header_seconds, self.transport.abort)


def _cancelled(timer) -> None:
  """Cancels a timer that may be None; returns the None to keep in its place."""
  if timer is not None:
    timer.cancel()
