"""The few ASGI messages that the parts of a server send themselves."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def headers(scope: Scope) -> dict[bytes, bytes]:
  """The request's headers by lower-case name; of a repeated one the last."""
  return dict(scope['headers'])


def count(scope: Scope, name: bytes) -> int:
  """How often the request has that header."""
  return sum(key == name for key, _ in scope['headers'])


async def refuse(send: Send, status: int, text: str, extra: Mapping[str, str] = {}) -> None:
  """A whole response in plain text, after which the connection is closed: the rest of the request is not read."""
  body = f'{text}\n'.encode()
  fields = {'content-type': 'text/plain; charset=utf-8', 'content-length': str(len(body)), 'connection': 'close'}
  raw = [(name.encode(), value.encode()) for name, value in (fields | dict(extra)).items()]
  await send({'type': 'http.response.start', 'status': status, 'headers': raw})
  await send({'type': 'http.response.body', 'body': body})
