"""A dispatcher behind `agents.serve_tools`, on this host (unix socket) or another, with the same `run`."""

import asyncio
import contextlib
import time
from typing import Unpack

import httpx

from agents.sandbox import Result
from agents.service.calls import Options, read_result, write_call
from agents.service.dispatcher import Full


class Client:
  """`await Client('unix:/run/tools.sock').run(trajectory, code)`, or `Client('http://host:8765', token=…)`.

  patience: seconds to retry while the service cannot be reached or drops the connection; after that a call is answered
  with a harness result. Repeating a call is safe, since it has no effect outside itself; a call with `keep` is not
  repeated once it may have begun.
  """

  def __init__(self, address: str, *, token: str | None = None, patience: float = 10.0):
    path = address.removeprefix('unix:')
    transport = None
    if path != address:
      transport = httpx.AsyncHTTPTransport(uds=path)
    headers = {}
    if token:
      headers = {'Authorization': f'Bearer {token}'}
    self._http = httpx.AsyncClient(
      base_url='http://tools' if transport else address,
      transport=transport,
      headers=headers,
      timeout=httpx.Timeout(None, connect=5.0),
      limits=httpx.Limits(max_connections=None),
    )
    self.patience = patience

  async def run(self, trajectory: str, code: str, **options: Unpack[Options]) -> Result:
    """As `Dispatcher.run`. Raises Full, ValueError as it does, and PermissionError on a wrong token."""
    body = write_call(trajectory, code, options)
    deadline = time.monotonic() + self.patience
    pause = 0.05
    while True:
      try:
        answer = await self._http.post('/run', json=body)
        if answer.status_code != 503:
          return _decode(answer)
        reason = answer.text
      except httpx.TransportError as error:
        reason = f'{type(error).__name__}: {error}'
        if options.get('keep') and not isinstance(error, httpx.ConnectError):
          return Result('harness', reason=f'the service broke off: {reason}')
      if time.monotonic() + pause > deadline:
        return Result('harness', reason=f'the service cannot be reached: {reason}')
      await asyncio.sleep(pause)
      pause = min(2 * pause, 0.5)

  async def forget(self, trajectory: str) -> None:
    """Drops the trajectory's kept state; a service that cannot be reached keeps none."""
    with contextlib.suppress(httpx.TransportError):
      await self._http.post('/forget', json={'trajectory': trajectory})

  async def figures(self) -> dict:
    """The service's metrics."""
    return (await self._http.get('/figures')).json()

  async def close(self) -> None:
    """Closes the connections."""
    await self._http.aclose()


def _decode(answer: httpx.Response) -> Result:
  if answer.status_code == 200:
    return read_result(answer.json())
  kind = {429: Full, 401: PermissionError, 400: ValueError}.get(answer.status_code, RuntimeError)
  raise kind(f'{answer.status_code}: {answer.text}')
