"""Messages between a language and a vision service over a socket, and how both prove that they know the key.

A message is a header of HEADER.size bytes and a body. Tiles travel as uint8 pixels, features in the model's own dtype
(bfloat16: two bytes a number): n tiles with T image tokens in all come back as 28 + 6·n + T·D·2 bytes.

n tiles   S side of a tile   D width of the language model
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import ml_dtypes
import numpy as np

from core.serving.stepping import Failed
from internvl import model
from internvl.flash import routing
from internvl.flash.routing import Compression, Routing
from internvl.serving.vision import Encoded, tile_tokens

# magic, kind, mode of compression, tiles, request, bytes of the body; 4 bytes are spare
HEADER = struct.Struct('<4sBBHQQ4x')
MAGIC = b'EDVD'
TILES, FEATURES, REFUSED = range(3)
NONCE = 32
MODES = get_args(Compression)
OWN_MODE = len(MODES)  # the model's own setting
DTYPES = {'bfloat16': np.dtype(ml_dtypes.bfloat16), 'float32': np.dtype(np.float32), 'float16': np.dtype(np.float16)}
MOST_BODY = 1 << 32
HANDSHAKE_SECONDS = 10.0


class Refused(ConnectionError):
  """The other side does not know the key, or serves another model."""


class Message(NamedTuple):
  """A message as it was read."""

  kind: int
  mode: int
  tiles: int
  request: int
  body: bytes


def packed(kind: int, request: int, body: bytes, *, mode: int = 0, tiles: int = 0) -> bytes:
  """A message as bytes."""
  return HEADER.pack(MAGIC, kind, mode, tiles, request, len(body)) + body


async def read(reader: asyncio.StreamReader, most: int = MOST_BODY) -> Message:
  """The next message. Raises ConnectionError for anything else, and at the end of the stream."""
  try:
    magic, kind, mode, tiles, request, size = HEADER.unpack(await reader.readexactly(HEADER.size))
    if magic != MAGIC or size > most:
      raise ConnectionError(f'not a message: magic {magic!r}, {size} bytes; expected {MAGIC!r} and at most {most}')
    return Message(kind, mode, tiles, request, await reader.readexactly(size))
  except asyncio.IncompleteReadError as error:
    raise ConnectionError('the connection ended') from error


def tiles_message(request: int, pixels: np.ndarray, compression: Compression | None) -> bytes:
  """A request for the features of tiles, uint8 [n, S, S, 3]."""
  mode = OWN_MODE
  if compression is not None:
    mode = MODES.index(compression)
  return packed(TILES, request, pixels.tobytes(), mode=mode, tiles=len(pixels))


def tiles_of(message: Message, side: int) -> tuple[np.ndarray, Compression | None]:
  """(uint8 [n, S, S, 3], compression) of a request. Raises ValueError for one of another size or kind."""
  size = message.tiles * side * side * 3
  if message.kind != TILES or len(message.body) != size or message.mode > OWN_MODE:
    raise ValueError(f'a message of {len(message.body)} bytes; expected {size} for {message.tiles} tiles of {side}')
  pixels = np.frombuffer(message.body, np.uint8).reshape(message.tiles, side, side, 3)
  return pixels, None if message.mode == OWN_MODE else MODES[message.mode]


def features_message(request: int, encoded: Encoded) -> bytes:
  """The answer: image tokens uint16 and score float32 (NaN: none) of each tile, then the features of kept tokens."""
  routed = encoded.routing
  count = len(routed.compressed)
  scores = np.full(count, np.nan, np.float32) if routed.scores is None else routed.scores
  parts = [tile_tokens(routed).astype('<u2'), scores.astype('<f4'), *encoded.features]
  return packed(FEATURES, request, b''.join(part.tobytes() for part in parts), tiles=count)


def encoded_of(message: Message, config: model.Config, dtype: np.dtype) -> Encoded:
  """The answer of the service. Raises Failed where it refused, ConnectionError for an answer of another size."""
  if message.kind == REFUSED:
    raise Failed(message.body.decode('utf-8', 'replace'))
  count = message.tiles
  width = config.language.width
  head = 6 * count
  if message.kind != FEATURES or len(message.body) < head:
    raise ConnectionError(f'an answer of kind {message.kind} and {len(message.body)} bytes; expected features')
  tokens = np.frombuffer(message.body, '<u2', count)
  scores = np.frombuffer(message.body, '<f4', count, 2 * count)
  if len(message.body) != head + int(tokens.sum()) * width * dtype.itemsize:
    raise ConnectionError(f'an answer of {len(message.body)} bytes; expected features of {int(tokens.sum())} tokens')
  flat = np.frombuffer(message.body, dtype, offset=head).reshape(-1, width)
  routed = Routing(
    compressed=tokens == config.compact_tokens,
    scores=None if np.isnan(scores).any() else scores.copy(),
    tokens=config.tokens_per_tile,
    compact_tokens=config.compact_tokens,
  )
  return Encoded(routed, np.split(flat, np.cumsum(tokens)[:-1]))


def model_of(config: model.Config, dtype: str) -> dict[str, Any]:
  """What both sides must agree on."""
  return {
    'side': config.vision.image_size,
    'width': config.language.width,
    'tokens': config.tokens_per_tile,
    'compact': config.compact_tokens,
    'flash': config.flash is not None,
    'own': routing.resolve(config, None),
    'dtype': dtype,
  }


async def greet(
  reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, served: Mapping[str, Any], *, asks: bool
) -> None:
  """Both sides show that they know the key and mean the same model; asks: this is the language side.

  HMAC-SHA256 over both nonces, the side's name and the model: neither the key nor a recorded greeting is of use to
  who listens. What follows is not encrypted. Raises Refused, ConnectionError, TimeoutError.
  """
  async with asyncio.timeout(HANDSHAKE_SECONDS):
    own = secrets.token_bytes(NONCE)
    writer.write(own)
    await writer.drain()
    other = await _exactly(reader, NONCE)
    nonces = own + other if asks else other + own
    text = json.dumps(served, sort_keys=True).encode()
    proof = lambda side: hmac.digest(key, side + nonces + text, hashlib.sha256)
    sides = (b'language', b'vision') if asks else (b'vision', b'language')
    writer.write(proof(sides[0]))
    await writer.drain()
    if not hmac.compare_digest(await _exactly(reader, 32), proof(sides[1])):
      raise Refused(f'the other side has another key or another model than {text.decode()}')


async def _exactly(reader: asyncio.StreamReader, size: int) -> bytes:
  try:
    return await reader.readexactly(size)
  except asyncio.IncompleteReadError as error:
    raise ConnectionError('the connection ended during the greeting') from error
