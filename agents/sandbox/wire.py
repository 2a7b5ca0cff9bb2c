"""Messages between a pool and a slot. On the stream: a count of parts, their lengths, the parts."""

import dataclasses
import json
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from agents.sandbox.limits import Limits, Result

LARGEST = 256 * 2**20
GRACE = 5.0  # seconds past the wall limit after which a slot counts as lost
CLEANING = 60.0  # seconds that the files of a call may take to be removed
STOP = b'stop'  # the message that ends a running call
_AT_ONCE = 64  # buffers in one system call


class Closed(ConnectionError):
  """The other end is closed, or sent something that is no message."""


def send(sock: socket.socket, *parts: bytes | memoryview) -> None:
  """Sends one message, without copying its parts. Raises OSError if the other end is closed."""
  head = struct.pack(f'!{len(parts) + 1}I', len(parts), *map(len, parts))
  views = [memoryview(part) for part in (head, *parts)]
  while views:
    sent = sock.sendmsg(views[:_AT_ONCE])
    while views and sent >= len(views[0]):
      sent -= len(views.pop(0))
    if views:
      views[0] = views[0][sent:]


def receive(sock: socket.socket, seconds: float | None = None) -> list[bytes]:
  """Receives one message. Raises Closed at the end of the stream or for no message, TimeoutError after `seconds`."""
  deadline = None
  if seconds is not None:
    deadline = time.monotonic() + seconds
  head = _exactly(sock, 4, deadline)
  (count,) = struct.unpack('!I', head)
  if count > 4096:
    raise Closed(f'{count} parts in a message')
  sizes = _exactly(sock, 4 * count, deadline)
  lengths = struct.unpack(f'!{count}I', sizes)
  if sum(lengths) > LARGEST:
    raise Closed(f'a message of {sum(lengths)} bytes')
  return [_exactly(sock, n, deadline) for n in lengths]


def _exactly(sock: socket.socket, size: int, deadline: float | None) -> bytes:
  """The next `size` bytes."""
  data = bytearray()
  while len(data) < size:
    if deadline is not None:
      left = deadline - time.monotonic()
      sock.settimeout(max(left, 1e-3))
    missing = size - len(data)
    chunk = sock.recv(min(missing, 2**20))
    if not chunk:
      raise Closed('the other end closed the connection')
    data += chunk
  return bytes(data)


def request(
  code: str, stdin: str | bytes, files: Mapping[str, str | bytes] | None, limits: Limits, *, session: bool
) -> list[bytes]:
  """The parts of a call: limits, file names, code, input, file contents. Raises ValueError for one that cannot run."""
  if not isinstance(code, str):
    raise ValueError(f'code is {type(code).__name__}, expected str')
  contents = {}
  for name, content in (files or {}).items():
    contents[name] = _bytes(f'files[{name!r}]', content)
  _check_files(contents, limits)
  meta = {'limits': dataclasses.asdict(limits), 'session': session}
  parts = [
    json.dumps(meta).encode(),
    json.dumps(list(contents)).encode(),
    code.encode('utf-8', 'surrogatepass'),
    _bytes('stdin', stdin),
    *contents.values(),
  ]
  size = sum(map(len, parts))
  if size > LARGEST // 2:
    raise ValueError(f'{size} bytes of code and input: expected at most {LARGEST // 2}')
  return parts


def _check_files(contents: Mapping[str, bytes], limits: Limits) -> None:
  """Raises ValueError for a path outside the working folder, too many files or too many bytes."""
  for name in contents:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or not path.parts or '\0' in name:
      raise ValueError(f'file name {name!r}: expected a relative path that stays inside')
  size = sum(map(len, contents.values()))
  most = limits.inodes // 4
  if size > limits.disk or len(contents) > most:
    raise ValueError(f'{len(contents)} files of {size} bytes: expected at most {most} of {limits.disk}')


class Asked(Protocol):
  """A slot, as `exchange` uses it."""

  def ask(self, parts: list[bytes], seconds: float, sent: Callable[[], None]) -> list[bytes]:
    """One request and its answer; calls `sent` in between. Raises OSError if the slot is gone or silent."""

  def cleaned(self, seconds: float) -> list[bytes]:
    """What follows an answer when the files of the call are removed."""


def exchange(
  slot: Asked, parts: list[bytes], limits: Limits, queued: float, *, sent: Callable[[], None] = lambda: None
) -> tuple[Result, bool]:
  """Asks a slot; returns the result, and whether the slot can be used again. sent: called once the slot was asked."""
  try:
    meta, *streams = slot.ask(parts, limits.wall + GRACE, sent)
  except OSError as error:  # Closed and TimeoutError are OSErrors
    return Result('harness', reason=f'the worker was lost: {error}', queued=queued), False
  answer = json.loads(meta)
  if answer['status'] == 'harness':
    return Result(queued=queued, **answer), False
  out_omitted, err_omitted = answer['omitted']
  answer['omitted'] = (out_omitted, err_omitted)
  answer['left'], alive = _left(slot)
  stdout = _text(streams[:3], out_omitted)
  stderr = _text(streams[3:6], err_omitted)
  return Result(stdout=stdout, stderr=stderr, queued=queued, **answer), alive


def _left(slot: Asked) -> tuple[tuple[str, ...], bool]:
  """What could not be removed of a call's files, and whether the slot can be used again."""
  try:
    (left,) = slot.cleaned(CLEANING)
  except OSError as error:
    return (f'the working folder: {error or "not removed in time"}',), False
  return tuple(json.loads(left)), True


def _text(stream: list[bytes], omitted: int) -> str:
  """A stream (its head, and its tail in two parts) as text, with a marker in place of omitted bytes."""
  head, *tails = stream
  tail = b''.join(tails)
  if not omitted:
    return (head + tail).decode('utf-8', 'replace')
  marker = f'\n[... {omitted} bytes left out ...]\n'
  return head.decode('utf-8', 'replace') + marker + tail.decode('utf-8', 'replace')


def _bytes(name: str, value: str | bytes) -> bytes:
  if isinstance(value, str):
    return value.encode('utf-8', 'surrogatepass')
  if isinstance(value, bytes):
    return value
  raise ValueError(f'{name} is {type(value).__name__}, expected str or bytes')
