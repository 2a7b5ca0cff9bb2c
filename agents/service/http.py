"""A dispatcher as an HTTP application: calls as JSON in, results as JSON out.

  POST /run      {"trajectory", "code", "stdin"?, "files"?, "keep"?, "limits"?, "wait"?} → a Result as JSON
  POST /batch    such objects, one a line (application/jsonl) → {"index": …, …Result} lines, in the order they end
  POST /forget   {"trajectory"} → drops its kept state
  GET  /figures  counts and latencies;  GET /metrics  the same for Prometheus
  GET  /health   the backend and what its self-test found;  GET /healthz  `ok`

`stdin` and files are strings, or {"base64": …} for bytes. Limits may only be lowered. A full queue answers 429 to a
call with "wait": false. A client that disconnects cancels its calls.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agents.sandbox import Result
from agents.service.calls import read_call, write_result
from agents.service.dispatcher import Dispatcher, Full
from core.serving import metrics
from core.serving.http.bodies import unless_disconnected
from core.text import parse_json

TYPES = ('application/json', 'application/jsonl', 'application/x-ndjson')
_COUNTERS = (
  'calls',
  'retries',
  'evicted_sessions',
  'callers_left',
  'status_',
)  # beginnings of names; everything else is a gauge


def application(dispatcher: Dispatcher) -> Starlette:
  """The routes over a dispatcher, without guards: `core.serving.server.guarded` adds them."""
  return Starlette(routes=[*_calls(dispatcher), *_reports(dispatcher)])


def _calls(dispatcher: Dispatcher) -> list[Route]:
  """The routes that run code."""

  async def run(request: Request) -> Response:
    try:
      call = _run(dispatcher, parse_json(_text(await request.body())))
      result = await unless_disconnected(request.receive, call)
    except Full as error:
      return PlainTextResponse(str(error), 429)
    except ValueError as error:
      return PlainTextResponse(str(error), 400)
    if result:
      return JSONResponse(write_result(result))
    return Response(status_code=499)

  async def batch(request: Request) -> Response:
    lines = [line for line in (await request.body()).splitlines() if line.strip()]
    return StreamingResponse(_batch(dispatcher, lines), media_type='application/jsonl')

  async def forget(request: Request) -> Response:
    try:
      name = parse_json(_text(await request.body()))['trajectory']
    except (ValueError, KeyError, TypeError):
      return PlainTextResponse('expected {"trajectory": …}', 400)
    await dispatcher.forget(str(name))
    return JSONResponse({})

  return [Route(f'/{call.__name__}', call, methods=['POST']) for call in (run, batch, forget)]


def _reports(dispatcher: Dispatcher) -> list[Route]:
  """The routes that tell about the service."""

  async def figures(_) -> Response:
    return JSONResponse(dispatcher.figures())

  async def scrape(_) -> Response:
    return Response(metrics.text(samples(dispatcher.figures())), media_type=metrics.CONTENT_TYPE)

  async def health(_) -> Response:
    return JSONResponse({'backend': dispatcher.pool.backend, 'report': dispatcher.pool.report})

  return [Route('/figures', figures), Route('/metrics', scrape), Route('/health', health)]


def samples(figures: dict) -> list[metrics.Sample]:
  """The figures of a dispatcher for Prometheus, which computes rates itself from the counters."""
  kind = lambda name: 'counter' if name.startswith(_COUNTERS) and name != 'calls_per_second' else 'gauge'
  return [metrics.Sample(f'espalier_tools_{name}', value, kind(name)) for name, value in figures.items()]


async def _batch(dispatcher: Dispatcher, lines: list[bytes]) -> AsyncIterator[bytes]:
  """Answers to the lines as they come; those still to come are cancelled when the reader leaves."""

  async def one(index: int, line: bytes) -> dict:
    try:
      result = await _run(dispatcher, parse_json(_text(line)))
    except (Full, ValueError) as error:
      return {'index': index, 'refused': str(error)}
    return {'index': index, **write_result(result)}

  tasks = [asyncio.ensure_future(one(index, line)) for index, line in enumerate(lines)]
  try:
    for answer in asyncio.as_completed(tasks):
      yield json.dumps(await answer).encode() + b'\n'
  finally:
    for task in tasks:
      task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
      await asyncio.gather(*tasks, return_exceptions=True)


async def _run(dispatcher: Dispatcher, body: object) -> Result:
  """Runs a call given as JSON. Raises ValueError for one that is malformed."""
  trajectory, code, options = read_call(body, dispatcher.pool.limits)
  return await dispatcher.run(trajectory, code, **options)


def _text(body: bytes) -> str:
  """Raises ValueError for a body that is not UTF-8."""
  return body.decode('utf-8')
