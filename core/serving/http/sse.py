"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

HEADERS = {'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-accel-buffering': 'no'}
DONE = b'data: [DONE]\n\n'  # how OpenAI's interface ends a stream


def event(data: Any, *, name: str = '') -> bytes:
  """One event whose data is `data` as JSON, or a text as it is, on as many lines as it has.

  Raises ValueError for a name with a line break, which would start another field.
  """
  if '\n' in name or '\r' in name:
    raise ValueError(f'{name!r}: the name of an event is one line')
  text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
  lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
  head = [f'event: {name}'] if name else []
  return '\n'.join([*head, *(f'data: {line}' for line in lines), '', '']).encode('utf-8', 'replace')


async def kept_alive(events: AsyncIterator[bytes], *, seconds: float = 15.0) -> AsyncIterator[bytes]:
  """The events, with a comment after every `seconds` of silence, so that proxies keep the connection open."""
  upcoming = asyncio.ensure_future(anext(events))
  try:
    while True:
      done, _ = await asyncio.wait([upcoming], timeout=seconds)
      if not done:
        yield b': still working\n\n'
        continue
      try:
        ready = upcoming.result()
      except StopAsyncIteration:
        return
      yield ready
      upcoming = asyncio.ensure_future(anext(events))
  finally:
    upcoming.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
      await upcoming
