"""Request bodies, read whole before the application sees them: bounded in size, time and memory."""

import asyncio

from core.serving.http import asgi


class TooLarge(Exception):
  """A body beyond the limit."""


class Gone(Exception):
  """The client disconnected before its body was complete."""


class WholeBody:
  """Reads each body, then calls the application with it in one message.

  413 beyond `max_bytes`; 408 when no byte came for `idle` seconds or the whole took longer than `total`; 503 while the
  bodies of all requests together would exceed `max_buffered`. A client that disconnects leaves nothing.
  """

  def __init__(self, app: asgi.App, *, max_bytes: int, max_buffered: int, idle: float, total: float):
    self.app = app
    self.max_bytes = max_bytes
    self.max_buffered = max_buffered
    self.idle = idle
    self.total = total
    self.buffered = 0  # bytes of all requests now inside

  async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    if scope['type'] != 'http':
      return await self.app(scope, receive, send)
    length = asgi.headers(scope).get(b'content-length', b'0')
    if not length.isdigit() or int(length) > self.max_bytes:
      return await asgi.refuse(send, 413, f'expected a body of at most {self.max_bytes} bytes')
    parts: list[bytes] = []
    try:
      if refusal := await self._refusal(receive, parts):
        return await asgi.refuse(send, *refusal)
      return await self.app(scope, _replayed(b''.join(parts), receive), send)
    except Gone:
      return None
    finally:
      self.buffered -= sum(map(len, parts))

  async def _refusal(self, receive: asgi.Receive, parts: list[bytes]) -> tuple | None:
    """Reads the body; (status, reason, …) when it is refused."""
    try:
      await self._read(receive, parts)
    except TooLarge:
      return 413, f'expected a body of at most {self.max_bytes} bytes'
    except MemoryError:
      return 503, 'too many bodies at once', {'retry-after': '1'}
    except TimeoutError:
      return 408, 'the body did not arrive in time'
    return None

  async def _read(self, receive: asgi.Receive, parts: list[bytes]) -> None:
    """Appends the body's parts as they come."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + self.total
    more = True
    size = 0
    # One timer that is moved: `wait_for` would make a task for every byte of a slow client.
    async with asyncio.timeout_at(deadline) as limit:
      while more:
        limit.reschedule(min(clock() + self.idle, deadline))
        message = await receive()
        if message['type'] == 'http.disconnect':
          raise Gone
        part = message.get('body', b'')
        parts.append(part)
        self.buffered += len(part)
        size += len(part)
        more = message.get('more_body', False)
        if size > self.max_bytes:
          raise TooLarge
        if self.buffered > self.max_buffered:
          raise MemoryError


def _replayed(body: bytes, receive: asgi.Receive) -> asgi.Receive:
  """A receive that gives the whole body once, then what the server says (that the client disconnected)."""
  first = [{'type': 'http.request', 'body': body, 'more_body': False}]

  async def replay() -> asgi.Message:
    if first:
      return first.pop()
    return await receive()

  return replay


async def unless_disconnected(receive: asgi.Receive, work):
  """The result of the coroutine `work`; None, and `work` cancelled, when the client disconnects first.

  Call it after the body has been read: then `receive` gives nothing but the disconnection.
  """
  working = asyncio.ensure_future(work)
  gone = asyncio.ensure_future(_disconnected(receive))
  try:
    await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
      return await working
    return None
  finally:
    for task in (working, gone):
      task.cancel()
    await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: asgi.Receive) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass
