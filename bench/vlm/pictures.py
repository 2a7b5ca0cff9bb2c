"""Pictures as tables hold them: paths, bytes, base64 text, the {'bytes', 'path'} of `datasets`, and lists of these."""

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import RowError

# The columns of public files that hold or name pictures. The first of a row that is not empty counts: a table with the
# pictures themselves may name their files in another column.
COLUMNS = (
  'decoded_image',
  'image',
  'images',
  'img_filename',
  'file_name',
  'filename',
  'imgname',
  'image_path',
  'image_local_name',
)
_QUOTED = re.compile(r'"([^"]+)"|\'([^\']+)\'')
_LONGEST_NAME = 1024  # of a file; a longer text is a picture in base64


def pictures_of(row: Mapping, folder: Path, columns: Sequence[str] = COLUMNS) -> list[bytes]:
  """The encoded pictures of the first column that has any. Raises RowError for a picture that is not there."""
  for name in columns:
    cells = _cells(row.get(name))
    pictures = [picture_bytes(cell, folder) for cell in cells]
    found = [raw for raw in pictures if raw]
    if found:
      return found
  return []


def picture_of(row: Mapping, folder: Path) -> bytes | None:
  """The first picture of a row; None without one. Raises RowError for a picture that is not there."""
  pictures = pictures_of(row, folder)
  if pictures:
    return pictures[0]
  return None


def _cells(value) -> list:
  """The pictures of a cell, which may be a list, or a list written as text (VLMEvalKit)."""
  if isinstance(value, list):
    return value
  if isinstance(value, str) and value.startswith('['):
    return [double or single for double, single in _QUOTED.findall(value)]
  return [value]


def picture_bytes(value, folder: Path) -> bytes | None:
  """The encoded bytes of one picture; a file is looked for in `folder` and in the folders in it.

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
  file = _file(value, folder)
  if file:
    return file.read_bytes()
  try:
    raw = base64.b64decode(value, validate=True)
  except (binascii.Error, ValueError):
    raw = b''
  if len(raw) < 16:
    raise RowError(f'picture not found: {value[:80]!r}')
  return raw


def _file(name: str, folder: Path) -> Path | None:
  """The file of this name, or None: archives of pictures are unpacked next to a table or into a folder there."""
  if len(name) >= _LONGEST_NAME or '\0' in name:
    return None
  inner = sorted(path for path in folder.iterdir() if path.is_dir())
  candidates = (path / name for path in (folder, *inner))
  return next((path for path in candidates if path.is_file()), None)


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
