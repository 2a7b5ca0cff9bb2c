"""Images from anywhere as upright RGB, 8 bits a channel, with every refusal in one clear error."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import urllib.parse
import urllib.request
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

Transparency = Literal['white', 'drop']

# Beyond 200:1 a side of one pixel would be stretched over more than half a tile; nothing is left to see.
MAX_ASPECT = 200
# Pillow's own threshold of suspicion for a decompression bomb (0.25 GiB of RGB).
MAX_PIXELS = 89_478_485
# Formats that Pillow decodes itself; others (EPS) start programs, which a file from anywhere must not.
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Bytes at an offset of formats that are not accepted, to say which one a file has.
SIGNATURES = {
  'AVIF': (4, b'ftypavif'),
  'HEIC': (4, b'ftyphei'),
  'ICO': (0, b'\x00\x00\x01\x00'),
  'JPEG 2000': (4, b'jP  \r\n'),
  'JPEG XL': (4, b'JXL \r\n'),
  'PDF': (0, b'%PDF'),
  'PostScript': (0, b'%!PS'),
  'Photoshop': (0, b'8BPS'),
  'SVG': (0, b'<svg'),
}
# Sensors write 10, 12 or 14 bits into 16-bit files without saying so.
GREY_BITS = (8, 10, 12, 14, 16)


class ImageRefused(ValueError):
  """The image was understood and is not acceptable; the message says why."""


def load(source: Any, *, transparency: Transparency = 'white') -> Image.Image:
  """An RGB image from a path, a data or file URI, bytes, a binary file object, a Pillow image or a uint8 array.

  Arrays are [H, W], or [H, W, C] with 1, 3 or 4 channels. Photographs are turned upright by their EXIF orientation,
  CMYK and palettes are converted, and of an animation the first frame counts. Grey of 16 bits is scaled to 8, from the
  fewest bits of GREY_BITS that hold its brightest pixel. transparency: transparent pixels are composited on white, or
  the alpha channel is dropped, as the published processors do.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not an image, of a format that is not accepted, truncated, empty, larger than MAX_PIXELS, narrower than
      MAX_ASPECT allows, of a sample format without a fixed range (32-bit integer or float), or a web address.
  """
  if isinstance(source, Image.Image):
    with decoding('the image'):
      return _upright(source, 'the image', transparency)
  if isinstance(source, np.ndarray):
    return _upright(_from_array(source), 'the image array', transparency)
  if isinstance(source, (bytes, bytearray, memoryview)):
    return _from_bytes(bytes(source), 'the image bytes', transparency)
  if hasattr(source, 'read'):
    return _from_bytes(_read(source), f'the file object {getattr(source, "name", "")!r}', transparency)
  if not isinstance(source, (str, os.PathLike)):
    raise ValueError(
      f'an image must be a path, a data URI, bytes, a Pillow image or a uint8 array, not {type(source).__name__}'
    )
  name = os.fspath(source)
  scheme = ''
  if ':' in name[:8]:
    scheme = name.split(':', 1)[0].lower()
  if scheme == 'data':
    return _from_bytes(data_uri(name), 'the data URI', transparency)
  if scheme in ('http', 'https'):
    raise ValueError(f'{name:.80}: images are not fetched from the web; download it and give its path')
  if scheme == 'file':
    name = urllib.request.url2pathname(urllib.parse.urlparse(name).path)
  if not os.path.isfile(name):
    raise FileNotFoundError(f'{name:.200}: no such image file')
  return _opened(name, name, transparency)


@contextlib.contextmanager
def decoding(name: str):
  """Turns every exception that a decoder raises on a hostile file into one ValueError that names the file."""
  try:
    yield
  except ImageRefused:
    raise
  except Exception as error:  # decoders of broken files raise nearly anything
    raise ValueError(f'{name}: not a readable image: {error}') from error


def check_size(width: int, height: int, name: str) -> None:
  """Refuses empty, enormous and needle-shaped images before a pixel of them is decoded."""
  if width < 1 or height < 1:
    raise ImageRefused(f'{name}: has no pixels ({width}×{height})')
  if width * height > MAX_PIXELS:
    raise ImageRefused(f'{name}: {width}×{height} is {width * height} pixels; the limit is {MAX_PIXELS}')
  if max(width, height) > MAX_ASPECT * min(width, height):
    raise ImageRefused(
      f'{name}: {width}×{height} has an aspect ratio of '
      f'{max(width, height) / min(width, height):.0f}:1; the limit is {MAX_ASPECT}:1'
    )


def to_rgb(image: Image.Image, name: str, transparency: Transparency = 'white') -> Image.Image:
  """Any Pillow image as RGB, 8 bits a channel; `name` is for the error message."""
  check_size(*image.size, name)
  if image.mode.startswith('I;16'):
    return _grey(np.asarray(image)).convert('RGB')
  if image.mode in ('I', 'F'):
    raise ImageRefused(
      f'{name}: pixels of mode {image.mode!r} (32-bit) have no fixed range; convert the image to 8 or 16 bits first'
    )
  if transparency == 'white' and image.has_transparency_data:
    layer = image.convert('RGBA')
    page = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(page, layer).convert('RGB')
  return image.convert('RGB')


def _grey(values: np.ndarray) -> Image.Image:
  """16-bit samples as 8 bits, from the bits that the sensor filled: 12-bit data would otherwise be black."""
  used = int(values.max(initial=0)).bit_length()
  bits = next(b for b in GREY_BITS if b >= used)
  return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def _upright(image: Image.Image, name: str, transparency: Transparency) -> Image.Image:
  check_size(*image.size, name)
  return to_rgb(ImageOps.exif_transpose(image), name, transparency)


def _from_array(array: np.ndarray) -> Image.Image:
  channels = 1
  if array.ndim == 3:
    channels = array.shape[2]
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
    raise ValueError(f'an image array must be uint8 [H, W] or [H, W, 1, 3 or 4], not {array.dtype} {list(array.shape)}')
  check_size(array.shape[1], array.shape[0], 'the image array')
  return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


def _from_bytes(data: bytes, name: str, transparency: Transparency) -> Image.Image:
  return _opened(io.BytesIO(data), name, transparency)


def _read(file: Any) -> bytes:
  data = file.read()
  if not isinstance(data, bytes):
    raise ValueError(f'an image file object gave {type(data).__name__}; open it in binary mode')
  return data


def data_uri(uri: str) -> bytes:
  """The bytes of a base64 data URI. Raises ValueError for another form of it."""
  head, comma, data = uri.partition(',')
  if not comma or not head.lower().endswith(';base64'):
    raise ValueError(f'{uri:.40}…: expected a data URI such as data:image/png;base64,…')
  try:
    return base64.b64decode(urllib.parse.unquote(data), validate=True)
  except (binascii.Error, ValueError) as error:
    raise ValueError(f'{uri:.40}…: not base64: {error}') from error


def _opened(file: Any, name: str, transparency: Transparency) -> Image.Image:
  try:
    image = Image.open(file, formats=FORMATS)
  except Image.UnidentifiedImageError as error:
    raise ValueError(f'{name}: not a readable image: {_format(file) or error}') from error
  except Exception as error:
    raise ValueError(f'{name}: not a readable image: {error}') from error
  with decoding(name), image:
    return _upright(image, name, transparency)


def _format(file: Any) -> str | None:
  """What to say of a file whose format is known and not accepted; None for other files."""
  if isinstance(file, io.BytesIO):
    head = file.getvalue()[:32]
  else:
    with open(file, 'rb') as stream:
      head = stream.read(32)
  for name, (at, signature) in SIGNATURES.items():
    if head[at:].startswith(signature):
      return f'the format {name} is not accepted; expected one of {", ".join(FORMATS)}'
  return None
