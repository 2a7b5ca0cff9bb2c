"""Many clients with requests of every kind: each gets its answer or a proper error, and nothing leaks."""

import asyncio
import collections
import json
import os
import random

import psutil
import pytest

from core.serving import server
from tests.core.serving.chat import scripted

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


def settled(made) -> bool:
  return made.worker.engine.idle and not made.capacity.held


@pytest.mark.parametrize(
  'clients, requests',
  [pytest.param(40, 400, marks=pytest.mark.slow), pytest.param(500, 10_000, marks=pytest.mark.long)],
)
def test_hostile_and_honest_clients_together(clients, requests):
  process = psutil.Process()
  with scripted.serving(lambda *_: 'word ' * 100, slots=32, pages=4000, places=400, bounds=BOUNDS) as (url, made):
    port = int(url.rsplit(':', 1)[1].split('/')[0])
    asyncio.run(all_clients(port, clients, requests // 10))  # warms caches and pools
    files, memory = len(os.listdir('/proc/self/fd')), process.memory_info().rss
    seen = asyncio.run(all_clients(port, clients, requests))
    asyncio.run(until(lambda: settled(made)))
    wrong = {key: count for key, count in seen.items() if key[1] is not None and key[1] not in KINDS[key[0]][2]}
    assert not wrong and sum(seen.values()) == requests
    assert all(seen[kind, 200] for kind in ('whole', 'stream', 'several', 'text', 'schema', 'reads slowly'))
    scheduler = made.worker.engine.scheduler
    scheduler.cache.clear()
    assert scheduler.pool.free == 4000 and made.worker.error is None
    asyncio.run(until(lambda: len(os.listdir('/proc/self/fd')) <= files + 5))
    assert process.memory_info().rss < memory + (100 << 20)


async def until(condition) -> None:
  async with asyncio.timeout(60):
    while not condition():
      await asyncio.sleep(0.05)
