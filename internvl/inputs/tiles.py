"""Images to the fixed-size tiles that InternViT reads: dynamic tiling (InternVL 1.5, arXiv 2404.16821 §3.2).

The image is stretched onto the grid of tiles whose aspect ratio is nearest to its own and cut up row by row;
when there is more than one tile, a thumbnail of the whole image comes last. Resampling is Pillow's bicubic on
uint8, as in the remote code of the published checkpoints.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os

import numpy as np
from PIL import Image, ImageOps

# ImageNet statistics, RGB: what every published InternVL preprocessor uses.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Beyond 200:1 a side of one pixel would be stretched over more than half a tile; nothing is left to see.
MAX_ASPECT = 200
# Pillow's own threshold of suspicion for a decompression bomb (0.25 GiB of RGB).
MAX_PIXELS = 89_478_485
# Formats that Pillow decodes itself; others (EPS) start programs, which a file from anywhere must not.
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')


def load_image(source: Image.Image | str | os.PathLike | np.ndarray) -> Image.Image:
  """An RGB image from a file, a Pillow image or a uint8 array [H, W] or [H, W, 3].

  Photographs are turned upright by their EXIF orientation. Transparency is dropped, CMYK and palettes are
  converted, 16-bit grey is scaled to 8 bits, and of an animation the first frame counts.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not an image, truncated, empty, larger than `MAX_PIXELS`, narrower than `MAX_ASPECT` allows,
      or of a sample format without a fixed range (32-bit integer or float).
  """
  if isinstance(source, Image.Image):
    with decoding('the image'):
      return _upright(source, 'the image')
  if isinstance(source, np.ndarray):
    if source.dtype != np.uint8 or not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)):
      raise ValueError(f'an image array must be uint8 [H, W] or [H, W, 3], not {source.dtype} {list(source.shape)}')
    check_size(source.shape[1], source.shape[0], 'the image array')
    return Image.fromarray(source).convert('RGB')
  if not isinstance(source, (str, os.PathLike)):
    raise ValueError(f'an image must be a path, a Pillow image or a uint8 array, not {type(source).__name__}')
  name = os.fspath(source)
  if not os.path.isfile(name):
    raise FileNotFoundError(f'{name}: no such image file')
  with decoding(name), Image.open(name, formats=FORMATS) as image:
    return _upright(image, name)


class ImageRefused(ValueError):
  """The image was understood and is not acceptable; the message says why."""


@contextlib.contextmanager
def decoding(name: str):
  """Turns whatever a decoder raises on a hostile file into one ValueError that names the file."""
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


def _upright(image: Image.Image, name: str) -> Image.Image:
  check_size(*image.size, name)
  return to_rgb(ImageOps.exif_transpose(image), name)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
  """Any Pillow image as RGB, 8 bits a channel; `name` is for the error message."""
  check_size(*image.size, name)
  if image.mode.startswith('I;16'):
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert('RGB')
  if image.mode in ('I', 'F'):
    raise ImageRefused(
      f'{name}: pixels of mode {image.mode!r} (32-bit) have no fixed range; convert the image to 8 or 16 bits first'
    )
  return image.convert('RGB')


@functools.lru_cache(maxsize=64)
def grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
  """Every (columns, rows) of `min_tiles`..`max_tiles` tiles, fewest tiles first."""
  if not 1 <= min_tiles <= max_tiles:
    raise ValueError(f'tiles per image must satisfy 1 <= min <= max, not min {min_tiles}, max {max_tiles}')
  pairs = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles // i + 1)]
  return tuple(sorted((p for p in pairs if p[0] * p[1] >= min_tiles), key=lambda p: p[0] * p[1]))


def grid(width: int, height: int, *, max_tiles: int, min_tiles: int = 1, size: int = 448) -> tuple[int, int]:
  """The (columns, rows) an image of width × height pixels is stretched onto.

  Nearest aspect ratio; among equally near grids the last (largest) that the image's area more than half
  fills. The comparison is of float64 values bit by bit, as published: unlike ratios can tie too.
  """
  aspect, area = width / height, width * height
  best, chosen = float('inf'), (1, 1)
  for columns, rows in grids(min_tiles, max_tiles):
    distance = abs(aspect - columns / rows)
    if distance < best or (distance == best and area > 0.5 * size * size * columns * rows):
      best, chosen = distance, (columns, rows)
  return chosen


def count(
  width: int, height: int, *, max_tiles: int, min_tiles: int = 1, size: int = 448, thumbnail: bool = True
) -> int:
  """How many tiles `tile` makes of an image of width × height pixels."""
  columns, rows = grid(width, height, max_tiles=max_tiles, min_tiles=min_tiles, size=size)
  return columns * rows + (thumbnail and columns * rows > 1)


def tile(
  image: Image.Image, *, max_tiles: int, min_tiles: int = 1, size: int = 448, thumbnail: bool = True
) -> np.ndarray:
  """Cuts an RGB image into uint8 tiles [tiles, size, size, 3]: row-major, the thumbnail last."""
  columns, rows = grid(*image.size, max_tiles=max_tiles, min_tiles=min_tiles, size=size)
  whole = np.asarray(image.resize((columns * size, rows * size), Image.Resampling.BICUBIC))
  tiles = whole.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
  if thumbnail and len(tiles) > 1:
    tiles = np.concatenate([tiles, single(image, size=size)])
  return tiles


def single(image: Image.Image, *, size: int = 448) -> np.ndarray:
  """The whole RGB image as one uint8 tile [1, size, size, 3]: thumbnails and video frames."""
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))[None]


def share(max_tiles: int, images: int) -> int:
  """The cap on tiles of each image when `images` of them share one prompt."""
  return max(1, max_tiles // images)


def recompress(tiles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """JPEG augmentation: each uint8 tile through JPEG at an integer quality drawn from 75..100.

  Used for pre-training (arXiv 2508.18265 §2.2); drawn per tile, as the released code does.
  """
  return np.stack([_jpeg(t, int(q)) for t, q in zip(tiles, rng.integers(75, 101, len(tiles)))])


def _jpeg(tile: np.ndarray, quality: int) -> np.ndarray:
  buffer = io.BytesIO()
  Image.fromarray(tile).save(buffer, 'JPEG', quality=quality)
  return np.asarray(Image.open(buffer))


def normalize(tiles: np.ndarray, mean=MEAN, std=STD) -> np.ndarray:
  """uint8 [..., 3] to float32 [..., 3]: scaled to 0..1, then standardised by channel."""
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  return (tiles.astype(np.float32) / np.float32(255) - mean) / std
