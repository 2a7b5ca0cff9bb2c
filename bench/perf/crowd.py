"""Clients that a server must bear: half open, slow, broken off, misdirected. asyncio, without an HTTP library.

Each kind is a coroutine that makes one connection and returns what became of it; `crowd` keeps many of them going.
"""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable


@dataclasses.dataclass(frozen=True)
class Target:
  """A server, its bearer token, and the seconds between two bytes of a slow client."""

  host: str
  port: int
  token: str
  pause: float = 1.0


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def half_open(target: Target, streams: Streams) -> str:
  """Connects and says nothing."""
  return await _outcome(streams)


async def slow_head(target: Target, streams: Streams) -> str:
  """Sends a head byte by byte."""
  return await _drip(target, streams, b'POST /run HTTP/1.1\r\n', b'x: ' + b'y' * 1000)


async def slow_body(target: Target, streams: Streams) -> str:
  """Announces a body and sends it byte by byte."""
  return await _drip(target, streams, _head(target, length=1000), b' ' * 1000)


async def broken_body(target: Target, streams: Streams) -> str:
  """Leaves in the middle of a body."""
  streams[1].write(_head(target, length=200_000) + b' ' * 100_000)
  await streams[1].drain()
  await asyncio.sleep(target.pause)
  return 'left'


async def leaves(target: Target, streams: Streams) -> str:
  """Asks for a call of a second and does not wait for it."""
  body = b'{"trajectory": "crowd", "code": "import time; time.sleep(1)"}'
  streams[1].write(_head(target, length=len(body)) + body)
  await streams[1].drain()
  await asyncio.sleep(0.2)
  return 'left'


async def wrong_host(target: Target, streams: Streams) -> str:
  """Names another host, as a page does whose name was pointed at this machine."""
  streams[1].write(_head(target, host='tools.example', length=2) + b'{}')
  return await _outcome(streams)


async def cross_site(target: Target, streams: Streams) -> str:
  """Posts as a form of another site does."""
  extra = 'Origin: https://tools.example\r\nSec-Fetch-Site: cross-site\r\n'
  streams[1].write(_head(target, length=2, extra=extra, kind='text/plain') + b'{}')
  return await _outcome(streams)


KINDS: dict[str, tuple[Callable[[Target, Streams], Awaitable[str]], int]] = {  # with the share of each, in twentieths
  'half open': (half_open, 6),
  'slow head': (slow_head, 4),
  'slow body': (slow_body, 4),
  'broken body': (broken_body, 1),
  'leaves': (leaves, 1),
  'wrong host': (wrong_host, 2),
  'cross site': (cross_site, 2),
}


async def crowd(target: Target, clients: int, seconds: float) -> dict[str, collections.Counter]:
  """Keeps `clients` clients going for that time; how often each kind ended in which way."""
  kinds = [name for name, (_, share) in KINDS.items() for _ in range(share)]
  counts = {name: collections.Counter() for name in KINDS}
  ended = asyncio.get_running_loop().time() + seconds

  async def client(index: int) -> None:
    await asyncio.sleep(index * min(2.0, seconds / 4) / clients)  # they do not all come at once
    name = kinds[index % len(kinds)]
    while asyncio.get_running_loop().time() < ended:
      counts[name][await _once(target, KINDS[name][0])] += 1
      await asyncio.sleep(target.pause)

  tasks = [asyncio.ensure_future(client(index)) for index in range(clients)]
  _, pending = await asyncio.wait(tasks, timeout=seconds)
  for task in pending:
    task.cancel()
  await asyncio.gather(*tasks, return_exceptions=True)
  return counts


async def _once(target: Target, kind: Callable[[Target, Streams], Awaitable[str]]) -> str:
  try:
    streams = await asyncio.open_connection(target.host, target.port)
  except OSError:
    return 'refused'
  try:
    return await kind(target, streams)
  except (ConnectionError, asyncio.IncompleteReadError):
    return 'closed'
  finally:
    streams[1].transport.abort()


async def _outcome(streams: Streams) -> str:
  """The status of the answer, or `closed` at the end of the connection."""
  line = await streams[0].readline()
  if line:
    return line.split()[1].decode()
  return 'closed'


async def _drip(target: Target, streams: Streams, first: bytes, rest: bytes) -> str:
  """Sends the first bytes, then one at a time until the server answers or closes."""
  _, writer = streams
  answer = asyncio.ensure_future(_outcome(streams))
  try:
    writer.write(first)
    for position in range(len(rest)):
      writer.write(rest[position : position + 1])
      done, _ = await asyncio.wait([answer], timeout=target.pause)
      if done:
        return await answer
    return await answer
  finally:
    answer.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
      await answer


def _head(target: Target, *, length: int, host: str = '', extra: str = '', kind: str = 'application/json') -> bytes:
  lines = (
    'POST /run HTTP/1.1',
    f'Host: {host or f"{target.host}:{target.port}"}',
    f'Authorization: Bearer {target.token}',
    f'Content-Type: {kind}',
    f'Content-Length: {length}',
  )
  return ('\r\n'.join(lines) + f'\r\n{extra}\r\n').encode()
