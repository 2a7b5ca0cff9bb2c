"""A vision service on a socket: reading, encoding and sending overlap, and what cannot be taken yet is not read."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from internvl import model
from internvl.inputs import tiles
from internvl.serving import wire
from internvl.serving.vision import Encoder

PENDING = 64  # tiles of a connection that are read and not answered


class _Budget:
  """Tiles that may be in work; whoever wants more waits. A request above the budget passes alone."""

  def __init__(self, most: int):
    self._most = most
    self._taken = 0
    self._changed = asyncio.Condition()

  async def take(self, count: int) -> None:
    async with self._changed:
      await self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._most)
      self._taken += count

  async def give_back(self, count: int) -> None:
    async with self._changed:
      self._taken -= count
      self._changed.notify_all()


class VisionServer:
  """Answers language services. key: that both sides know; dtype: of the features; counts: bytes sent, answers."""

  def __init__(
    self, encoder: Encoder, config: model.Config, key: bytes, *, dtype: str, normalisation: Sequence, pending=PENDING
  ):
    self._encoder = encoder
    self._side = config.vision.image_size
    self._key = key
    self._served: Mapping[str, Any] = wire.model_of(config, dtype)
    self._normalisation = normalisation
    self._pending = pending
    self.sent = self.answers = 0

  async def serve(self, sock: socket.socket) -> None:
    """Serves until it is cancelled."""
    connections: set[asyncio.Task] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
      connections.add(asyncio.current_task())
      try:
        await self._connection(reader, writer)
      finally:
        connections.discard(asyncio.current_task())

    server = await asyncio.start_server(accepted, sock=sock)
    try:
      await asyncio.Event().wait()
    finally:
      # From Python 3.12 on `serve_forever` ends when the last connection does, which a client may keep for ever.
      server.close()
      ending = [*connections]
      for task in ending:
        task.cancel()
      await asyncio.gather(*ending, return_exceptions=True)

  async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
      await wire.greet(reader, writer, self._key, self._served, asks=False)
      budget = _Budget(self._pending)
      lock = asyncio.Lock()
      async with asyncio.TaskGroup() as answering:
        while True:
          message = await wire.read(reader, most=1 << 30)
          await budget.take(message.tiles)
          answering.create_task(self._answer(message, writer, lock, budget))
    except* (OSError, TimeoutError) as lost:
      logging.info('vision service: %s', lost.exceptions[0])
    finally:
      writer.close()
      with contextlib.suppress(OSError):
        await writer.wait_closed()

  async def _answer(self, message: wire.Message, writer, lock: asyncio.Lock, budget: _Budget) -> None:
    try:
      answer = await self._answered(message)
      async with lock:  # one whole message after the other
        writer.write(answer)
        await writer.drain()
      self.sent += len(answer)
      self.answers += 1
    finally:
      await budget.give_back(message.tiles)

  async def _answered(self, message: wire.Message) -> bytes:
    try:
      pixels, compression = wire.tiles_of(message, self._side)
      normal = await asyncio.to_thread(tiles.normalize, pixels, *self._normalisation)
      encoded = await asyncio.wrap_future(self._encoder.submit(normal, compression))
    except (ValueError, RuntimeError) as error:
      return wire.packed(wire.REFUSED, message.request, str(error).encode())
    return await asyncio.to_thread(wire.features_message, message.request, encoded)
