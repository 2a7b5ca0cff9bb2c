"""The language side of a vision service in another process: requests go out, features come back, in any order.

A request waits until it is answered: if the connection is lost, it is sent again on the next one. The service is
stateless, so the answer is the same.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from absl import logging

from internvl import model
from internvl.flash.routing import Compression
from internvl.inputs import tiles
from internvl.inputs.processor import Inputs
from internvl.serving import wire
from internvl.serving.vision import Encoded, Seen, seen

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts to connect


class Remote:
  """A vision service at `address` (host, port). key: that both sides know. dtype: of the features, the model's own.

  normalisation: mean and standard deviation of the processor's pixels. Made anywhere, used in one event loop.
  connections: made so far. received: bytes of answers.
  """

  def __init__(
    self,
    address: tuple[str, int],
    key: bytes,
    config: model.Config,
    *,
    dtype: str,
    image_id: int,
    normalisation: Sequence,
  ):
    self._address = address
    self._key = key
    self._config = config
    self._image_id = image_id
    self._dtype = wire.DTYPES[dtype]
    self._served = wire.model_of(config, dtype)
    self._normalisation = normalisation
    self._numbers = itertools.count()
    self._waiting: dict[int, tuple[bytes, asyncio.Future]] = {}  # not answered yet, in order
    self._outbox: asyncio.Queue[int] = asyncio.Queue()  # of the present connection
    self._task: asyncio.Task | None = None
    self.connections = self.received = 0

  async def see(self, x: Inputs, compression: Compression | None) -> Seen:
    """As in `internvl.serving.vision.Vision`."""
    number = next(self._numbers)
    pixels = await asyncio.to_thread(tiles.denormalize, x.pixels, *self._normalisation)
    answer: asyncio.Future = asyncio.get_running_loop().create_future()
    self._waiting[number] = wire.tiles_message(number, pixels, compression), answer
    self._outbox.put_nowait(number)
    self._task = self._task or asyncio.create_task(self._stay_connected())
    try:
      encoded: Encoded = await answer
    finally:
      self._waiting.pop(number, None)
    return seen(x, encoded, self._image_id)

  async def close(self) -> None:
    """Closes the connection; requests that wait stay without an answer."""
    if self._task:
      self._task.cancel()
      await asyncio.gather(self._task, return_exceptions=True)

  async def _stay_connected(self) -> None:
    pause = FIRST_PAUSE
    while True:
      before = self.connections
      try:
        await self._connected()
      except* OSError as lost:
        logging.warning('vision service %s:%d: %s; %d requests wait', *self._address, lost, len(self._waiting))
      pause = FIRST_PAUSE if self.connections > before else min(2 * pause, LONGEST_PAUSE)
      await asyncio.sleep(pause)

  async def _connected(self) -> None:
    """One connection until it is lost: everything that waits is sent on it."""
    reader, writer = await asyncio.open_connection(*self._address)
    try:
      await wire.greet(reader, writer, self._key, self._served, asks=True)
      self.connections += 1
      self._outbox = asyncio.Queue()
      for number in self._waiting:
        self._outbox.put_nowait(number)
      async with asyncio.TaskGroup() as both:
        both.create_task(self._send(writer))
        both.create_task(self._receive(reader))
    finally:
      writer.close()
      with contextlib.suppress(OSError):
        await writer.wait_closed()

  async def _send(self, writer: asyncio.StreamWriter) -> None:
    while True:
      number = await self._outbox.get()
      if number in self._waiting:
        writer.write(self._waiting[number][0])
        await writer.drain()

  async def _receive(self, reader: asyncio.StreamReader) -> None:
    while True:
      message = await wire.read(reader)
      self.received += wire.HEADER.size + len(message.body)
      _, answer = self._waiting.pop(message.request, (b'', None))
      if answer is None or answer.done():  # the client left
        continue
      try:
        answer.set_result(wire.encoded_of(message, self._config, self._dtype))
      except Exception as error:
        answer.set_exception(error)


def parse_address(text: str) -> tuple[str, int]:
  """HOST:PORT. Raises ValueError for anything else."""
  host, colon, port = text.rpartition(':')
  if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ValueError(f'{text!r}: expected HOST:PORT')
  return host.strip('[]'), int(port)
