"""Messages over a stream socket: a count, that many lengths, that many byte strings."""

import socket
import struct
import time

LARGEST = 256 * 2**20
_AT_ONCE = 64  # buffers in one system call


class Closed(ConnectionError):
  """The other end is gone, or what it sent is no message."""


def send(sock: socket.socket, *parts: bytes | memoryview) -> None:
  """Sends one message, without copying its parts. Raises OSError when the other end is gone."""
  head = struct.pack(f'!{len(parts) + 1}I', len(parts), *map(len, parts))
  views = [memoryview(part) for part in (head, *parts)]
  while views:
    sent = sock.sendmsg(views[:_AT_ONCE])
    while views and sent >= len(views[0]):
      sent -= len(views.pop(0))
    if views:
      views[0] = views[0][sent:]


def receive(sock: socket.socket, seconds: float | None = None) -> list[bytes]:
  """Receives one message. Raises Closed at end of stream or nonsense, TimeoutError after `seconds`."""
  deadline = None if seconds is None else time.monotonic() + seconds
  (count,) = struct.unpack('!I', _exactly(sock, 4, deadline))
  if count > 4096:
    raise Closed(f'{count} parts in a message')
  lengths = struct.unpack(f'!{count}I', _exactly(sock, 4 * count, deadline))
  if sum(lengths) > LARGEST:
    raise Closed(f'a message of {sum(lengths)} bytes')
  return [_exactly(sock, n, deadline) for n in lengths]


def _exactly(sock: socket.socket, size: int, deadline: float | None) -> bytes:
  """The next `size` bytes."""
  data = bytearray()
  while len(data) < size:
    if deadline is not None:
      sock.settimeout(max(deadline - time.monotonic(), 1e-3))
    chunk = sock.recv(min(size - len(data), 2**20))
    if not chunk:
      raise Closed('the other end closed the connection')
    data += chunk
  return bytes(data)
