"""Pictures as tables hold them: a path, bytes, base64 text, or the {'bytes', 'path'} of `datasets`."""

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path

from bench.harness.rows import RowError


def picture_bytes(value, folder: Path) -> bytes | None:
  """The encoded bytes of one picture.

  None for an empty cell. Raises RowError for a picture that is not there.
  """
  if isinstance(value, Mapping):
    value = value.get('bytes') or value.get('path')
  if value is None or value in ('', b''):
    return None
  if isinstance(value, (bytes, bytearray)):
    return bytes(value)
  if not isinstance(value, str):
    raise RowError(f'picture is {type(value).__name__}')
  if len(value) < 1024 and '\0' not in value and (folder / value).is_file():
    return (folder / value).read_bytes()
  try:
    raw = base64.b64decode(value, validate=True)
  except (binascii.Error, ValueError):
    raw = b''
  if len(raw) < 16:
    raise RowError(f'picture not found: {value[:80]!r}')
  return raw


def picture_part(raw: bytes) -> dict:
  """A content part of a chat turn."""
  from PIL import Image, UnidentifiedImageError

  try:
    return {'type': 'image', 'image': Image.open(io.BytesIO(raw)).convert('RGB')}
  except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
    raise ValueError(f'a picture of {len(raw)} bytes cannot be read: {error}') from None


def folder_of(path: str) -> Path:
  """The path itself if it is a folder, else the folder that contains it."""
  if Path(path).is_dir():
    return Path(path)
  return Path(path).parent
