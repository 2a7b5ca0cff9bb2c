"""A service as an HTTP application, in the shape of OpenAI's interface.

  POST /v1/chat/completions   {"model", "messages", …} → a reply, whole or as server-sent events
  POST /v1/completions        {"model", "prompt", …} → the same of a plain text or of token ids
  GET  /v1/models             the one model
  GET  /metrics               counts for Prometheus;  GET /healthz  `ok`

`core.serving.chat.asked` says which fields are understood. A client that disconnects frees its slots.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.serving import metrics
from core.serving.admission import Full
from core.serving.chat.service import Service, UnknownModel
from core.serving.http import sse
from core.serving.http.bodies import unless_disconnected
from core.serving.http.responses import CLIENT_LEFT, Closing, error, refusal
from core.serving.stepping import Failed
from core.text import parse_json

# What a request may end in, and the status of each; the first that fits counts.
STATUSES = {UnknownModel: 404, ValueError: 400, Full: 429, TimeoutError: 504, Failed: 500}
REFUSALS = tuple(STATUSES)


def application(service: Service, routes: list[Route] | None = None) -> Starlette:
  """The routes over a service, without guards: `core.serving.server.guarded` adds them. routes: further ones."""
  chat = _answering(service, service.chat)
  text = _answering(service, service.completion)
  made = [
    Route('/v1/chat/completions', chat, methods=['POST']),
    Route('/v1/completions', text, methods=['POST']),
    *_reports(service),
  ]
  return Starlette(routes=[*made, *(routes or [])])


def _answering(service: Service, understand: Callable[[Any], Any]) -> Callable:
  async def answer(request: Request) -> Response:
    try:
      body = await request.body()
      asked = await asyncio.to_thread(_understood, understand, body)
      if asked.stream:
        return await _streamed(service, asked, request)
      reply = await unless_disconnected(request.receive, service.reply(asked))
      if reply is None:
        return Response(status_code=CLIENT_LEFT)
      return JSONResponse(reply)
    except REFUSALS as refused:
      return _refused(refused)

  return answer


def _understood(understand: Callable[[Any], Any], body: bytes) -> Any:
  return understand(parse_json(body.decode('utf-8')))


async def _streamed(service: Service, asked: Any, request: Request) -> Response:
  """The response starts with its first event, so that what fails before has a status of its own."""
  events = service.events(asked)
  first = await unless_disconnected(request.receive, anext(events))
  if first is None:
    await events.aclose()
    return Response(status_code=CLIENT_LEFT)
  return Closing(sse.kept_alive(_events(first, events)), events, headers=sse.HEADERS)


async def _events(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
  """All events; what fails in between is the last one."""
  yield first
  try:
    async for event in events:
      yield event
  except REFUSALS as refused:
    yield sse.event(error(_status(refused), _message(refused)))


def _status(refused: Exception) -> int:
  return next(status for kind, status in STATUSES.items() if isinstance(refused, kind))


def _message(refused: Exception) -> str:
  return str(refused) or 'the request took longer than this server allows'


def _refused(refused: Exception) -> Response:
  status = _status(refused)
  return refusal(status, _message(refused), {'retry-after': '1'} if status == 429 else None)


def _reports(service: Service) -> list[Route]:
  model = {'id': service.model.name, 'object': 'model', 'created': 0, 'owned_by': 'espalier'}

  async def models(_) -> Response:
    return JSONResponse({'object': 'list', 'data': [model]})

  async def one(request: Request) -> Response:
    wanted = request.path_params['name']
    if wanted != service.model.name:
      return refusal(404, f'model {wanted!r:.80}: this server has {service.model.name!r} only')
    return JSONResponse(model)

  async def scrape(_) -> Response:
    return Response(metrics.text(service.samples()), media_type=metrics.CONTENT_TYPE)

  handlers = {'/v1/models': models, '/v1/models/{name:path}': one, '/metrics': scrape}
  return [Route(path, handler) for path, handler in handlers.items()]
