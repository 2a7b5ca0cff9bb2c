"""The page at / of the server."""

import pathlib

from starlette.responses import Response
from starlette.routing import Route

from core.serving.chat.service import Service
from core.serving.http.responses import PAGE_HEADERS

PAGE = pathlib.Path(__file__).with_name('page.html')


def routes(service: Service) -> list[Route]:
  """The page, which chats with the service by its own interface."""
  del service

  async def page(_) -> Response:
    return Response(PAGE.read_bytes(), media_type='text/html; charset=utf-8', headers=PAGE_HEADERS)

  return [Route('/', page)]
