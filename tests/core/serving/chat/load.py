"""Clients with requests of every kind, honest and hostile, against a server whose device is a script.

  python -m tests.core.serving.chat.load --requests=10000 --clients=500

Prints how often each kind of request got each status, and pages, slots, memory and descriptors before and after; exits
with status 1 if a status is wrong or something leaked. A tenth of the requests runs first, to warm caches and pools.
"""

import argparse
import asyncio
import collections
import dataclasses
import json
import os
import random
import sys
import time

import psutil

from core.serving import server
from tests.core.serving.chat import scripted

PAGES, PLACES = 4000, 400
BOUNDS = server.Bounds(connections=600, body_bytes=20_000, write_seconds=5.0)
HEAD = 'POST /v1/{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n'
USUAL = {'path': 'chat/completions', 'host': '127.0.0.1', 'key': 'secret', 'kind': 'application/json'}


def chat(**fields):
  turn = {'role': 'user', 'content': 'hello'}
  return json.dumps({'model': 'tiny', 'messages': [turn], 'max_tokens': 12} | fields).encode()


IMAGE = [{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,AAAA'}}]}]
# What is sent, how the head differs, and the statuses that it may get.
KINDS = {
  'whole': (chat(), {}, {200, 429}),
  'stream': (chat(stream=True), {}, {200, 429}),
  'several': (chat(n=3, seed=1), {}, {200, 429}),
  'text': (json.dumps({'model': 'tiny', 'prompt': [1, 2, 3]}).encode(), {'path': 'completions'}, {200, 429}),
  'schema': (chat(response_format={'type': 'json_object'}), {}, {200, 429}),
  'malformed': (b'{"model": ', {}, {400}),
  'deep': (b'[' * 10_000, {}, {400}),
  'oversize': (b'x' * 30_000, {}, {413}),
  'bad image': (chat(messages=IMAGE), {}, {400, 429}),
  'bad field': (chat(temperature='warm'), {}, {400}),
  'wrong key': (chat(), {'key': 'guess'}, {401}),
  'wrong Host': (chat(), {'host': 'evil.example'}, {421}),
  'wrong type': (chat(), {'kind': 'text/plain'}, {415}),
  'unknown path': (chat(), {'path': 'nothing'}, {404}),
  'leaves at once': (chat(stream=True, max_tokens=500), {}, set()),
  'leaves in between': (chat(stream=True, max_tokens=500), {}, {200, 429}),
  'reads slowly': (chat(stream=True, max_tokens=40), {}, {200, 429}),
}


async def once(port: int, kind: str) -> int | None:
  """The status of one request on a connection of its own; None for a client that leaves without one."""
  body, changes, _ = KINDS[kind]
  reader, writer = await asyncio.open_connection('127.0.0.1', port)
  try:
    head = HEAD.format(**USUAL | changes) + f'Content-Length: {len(body)}\r\nConnection: close\r\n\r\n'
    writer.write(head.encode() + body)
    await writer.drain()
    if kind == 'leaves at once':
      writer.transport.abort()
      return None
    status = int((await reader.readline()).split()[1])
    if kind == 'leaves in between':
      await reader.read(200)
      writer.transport.abort()
      return status
    while data := await reader.read(100 if kind == 'reads slowly' else 1 << 16):
      if kind == 'reads slowly':
        await asyncio.sleep(0.002)
    del data
    return status
  finally:
    writer.close()


async def all_clients(port: int, clients: int, requests: int) -> collections.Counter:
  left = iter(random.Random(0).choices([*KINDS], k=requests))
  seen: collections.Counter = collections.Counter()

  async def client():
    for kind in left:
      try:
        async with asyncio.timeout(120):
          status = await once(port, kind)
      except ConnectionError:  # an oversize body may be cut off while it is sent
        status = 413 if kind == 'oversize' else 'lost'
      seen[kind, status] += 1

  await asyncio.gather(*(client() for _ in range(clients)))
  return seen


@dataclasses.dataclass(frozen=True)
class Held:
  """What a server holds: free pages once its prefix cache is dropped, samples, descriptors, bytes of memory."""

  free_pages: int
  samples: int
  descriptors: int
  memory: int


@dataclasses.dataclass(frozen=True)
class Outcome:
  """seen: how often each (kind, status) occurred. before, after: what the server held. error: what ended its thread."""

  seen: collections.Counter
  before: Held
  after: Held
  seconds: float
  error: Exception | None

  @property
  def wrong(self) -> dict:
    """The statuses that a request of their kind may not get."""
    return {key: n for key, n in self.seen.items() if key[1] is not None and key[1] not in KINDS[key[0]][2]}

  @property
  def leaks(self) -> list[str]:
    """What is still held."""
    leaked = {
      'pages': self.after.free_pages != PAGES,
      'samples': self.after.samples > 0,
      'descriptors': self.after.descriptors > self.before.descriptors + 5,
      'memory': self.after.memory > self.before.memory + (100 << 20),
    }
    return [name for name, found in leaked.items() if found]


def run(clients: int, requests: int) -> Outcome:
  """Serves all of them in this process."""
  with scripted.serving(lambda *_: 'word ' * 100, slots=32, pages=PAGES, places=PLACES, bounds=BOUNDS) as (url, made):
    port = int(url.rsplit(':', 1)[1].split('/')[0])
    asyncio.run(all_clients(port, clients, requests // 10))
    before, start = held(made), time.monotonic()
    seen = asyncio.run(all_clients(port, clients, requests))
    seconds = time.monotonic() - start
    return Outcome(seen, before, held(made), seconds, made.worker.error)


def held(made) -> Held:
  """What a server holds when nobody asks any more."""
  asyncio.run(_settled(made))
  scheduler = made.worker.engine.scheduler
  scheduler.cache.clear()
  return Held(scheduler.pool.free, made.capacity.held, descriptors(), psutil.Process().memory_info().rss)


async def _settled(made) -> None:
  """Waits until the server has noticed that all clients left, at most a minute."""
  async with asyncio.timeout(60):
    while made.capacity.held or not made.worker.engine.idle:
      await asyncio.sleep(0.05)
    open_before = None  # sockets close a moment later
    while (now_open := descriptors()) != open_before:
      open_before = now_open
      await asyncio.sleep(1.0)


def descriptors() -> int:
  """Files and sockets that this process has open."""
  return len(os.listdir('/proc/self/fd'))


def main() -> int:
  """Runs the program; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--requests', type=int, default=10_000)
  parser.add_argument('--clients', type=int, default=500)
  options = parser.parse_args()
  found = run(options.clients, options.requests)
  for kind in KINDS:
    counts = {status: n for (of, status), n in sorted(found.seen.items(), key=str) if of == kind}
    print(f'{kind:18} {counts}')
  processor = time.process_time()
  print(f'{sum(found.seen.values())} requests of {options.clients} clients: {found.seconds:.0f} s', end='')
  print(f', {processor:.0f} processor seconds of server and clients; load average {os.getloadavg()[0]:.1f}')
  print(f'before: {found.before}')
  print(f'after:  {found.after}')
  print(f'wrong statuses: {found.wrong or "none"}; leaks: {", ".join(found.leaks) or "none"}; error: {found.error}')
  return int(bool(found.wrong or found.leaks or found.error))


if __name__ == '__main__':
  sys.exit(main())
