"""A service as an HTTP application, in the shape of OpenAI's interface.

  POST /v1/audio/speech   {"model", "input", "voice", …} → speech, frame by frame
  GET  /v1/models         the one model;  GET /v1/voices  the names of the voices
  GET  /metrics           counts for Prometheus;  GET /healthz  `ok`
  GET  /                  a page that speaks scripts

`vibevoice.serving.fields` says which fields are understood. A client that disconnects frees its row.
"""

import asyncio
import base64
import pathlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core.serving import metrics
from core.serving.admission import Full
from core.serving.http import sse
from core.serving.http.bodies import unless_disconnected
from core.serving.http.responses import CLIENT_LEFT, PAGE_HEADERS, Closing, refusal
from core.serving.stepping import Failed
from core.text import parse_json
from vibevoice.config import SAMPLE_RATE
from vibevoice.serving import sound
from vibevoice.serving.service import Service

PAGE = pathlib.Path(__file__).with_name('page.html')
TYPES = {'wav': 'audio/wav', 'pcm': 'audio/pcm'}


def application(service: Service) -> Starlette:
  """The routes over a service, without guards: `core.serving.server.guarded` adds them."""
  return Starlette(routes=[*_speech(service), *_reports(service)])


def _speech(service: Service) -> list[Route]:
  async def speech(request: Request) -> Response:
    try:
      body = parse_json((await request.body()).decode('utf-8'))
      understood, asked = await asyncio.to_thread(service.understand, body)
    except ValueError as error:
      return refusal(400, str(error))
    frames = service.frames(asked)
    try:
      # The response starts with its first frame, so that what fails before has a status of its own.
      first = await unless_disconnected(request.receive, _first(frames))
    except Full as error:
      return refusal(503, str(error), {'retry-after': '1'})
    except Failed as error:
      return refusal(500, str(error))
    if first is None:
      await frames.aclose()
      return Response(status_code=CLIENT_LEFT)
    if understood.stream == 'sse':
      return Closing(_events(first, frames), frames, headers=sse.HEADERS)
    header = b''
    if understood.form == 'wav':
      header = sound.wav_header(SAMPLE_RATE)
    return Closing(_bytes(header + first, frames), frames, media_type=TYPES[understood.form])

  return [Route('/v1/audio/speech', speech, methods=['POST'])]


def _reports(service: Service) -> list[Route]:
  async def models(_) -> Response:
    model = {'id': service.offer.model, 'object': 'model', 'created': 0, 'owned_by': 'espalier'}
    return JSONResponse({'object': 'list', 'data': [model]})

  async def voices(_) -> Response:
    return JSONResponse({'voices': list(service.offer.voices)})

  async def scrape(_) -> Response:
    return Response(metrics.text(service.samples()), media_type=metrics.CONTENT_TYPE)

  async def page(_) -> Response:
    return Response(PAGE.read_bytes(), media_type='text/html; charset=utf-8', headers=PAGE_HEADERS)

  handlers = {'/v1/models': models, '/v1/voices': voices, '/metrics': scrape, '/': page}
  return [Route(path, handler) for path, handler in handlers.items()]


async def _first(frames: AsyncIterator[bytes]) -> bytes:
  """The first frame; nothing if the speech has none."""
  return await anext(frames, b'')


async def _bytes(first: bytes, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
  yield first
  async for frame in frames:
    yield frame


async def _events(first: bytes, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
  """Frames as OpenAI's events; their sound is PCM without a header."""
  async for frame in _bytes(first, frames):
    sound_text = base64.b64encode(frame).decode()
    yield sse.event({'type': 'speech.audio.delta', 'audio': sound_text})
  yield sse.event({'type': 'speech.audio.done'})
