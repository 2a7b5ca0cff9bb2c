"""Responses of servers in the shape of OpenAI's interface: errors, streams that close their source, pages."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

CLIENT_LEFT = 499
PAGE_HEADERS = {
  'content-security-policy': (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
  ),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
}
KINDS = {404: 'not_found_error', 429: 'rate_limit_error'}


class Closing(StreamingResponse):
  """A response that closes its source when it ends, also when the client leaves while a chunk is being sent."""

  def __init__(self, content: AsyncIterator[bytes], source: Any, **options):
    super().__init__(content, **options)
    self._source = source

  async def __call__(self, scope, receive, send) -> None:
    async with contextlib.aclosing(self._source), contextlib.aclosing(self.body_iterator):
      await super().__call__(scope, receive, send)


def error(status: int, message: str) -> dict[str, Any]:
  """An error as an object."""
  kind = KINDS.get(status, 'invalid_request_error' if status < 500 else 'server_error')
  return {'error': {'message': ' '.join(message.split()), 'type': kind, 'param': None, 'code': None}}


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
  """An error as a response."""
  return Response(json.dumps(error(status, message)), status, headers=headers, media_type='application/json')
