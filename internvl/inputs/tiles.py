"""Images to the fixed-size tiles that InternViT reads: dynamic tiling (InternVL 1.5, arXiv 2404.16821 §3.2).

The image is stretched onto the grid of tiles whose aspect ratio is nearest to its own and cut up row by row;
when there is more than one tile, a thumbnail of the whole image comes last. Resampling is Pillow's bicubic on
uint8, as in the remote code of the published checkpoints.
"""

from __future__ import annotations

import functools
import io
import itertools
import math

import numpy as np
from PIL import Image

# ImageNet statistics, RGB: what every published InternVL preprocessor uses.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=64)
def grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
  """Every (columns, rows) of `min_tiles`..`max_tiles` tiles, fewest tiles first."""
  if not 1 <= min_tiles <= max_tiles:
    raise ValueError(f'tiles per image must satisfy 1 <= min <= max, not min {min_tiles}, max {max_tiles}')
  sides = range(1, max_tiles + 1)
  pairs = itertools.product(sides, sides)
  fitting = [pair for pair in pairs if min_tiles <= math.prod(pair) <= max_tiles]
  fitting.sort(key=math.prod)
  return tuple(fitting)


def grid(width: int, height: int, *, max_tiles: int, min_tiles: int = 1, size: int = 448) -> tuple[int, int]:
  """The (columns, rows) an image of width × height pixels is stretched onto.

  Nearest aspect ratio; among equally near grids the last (largest) that the image's area more than half
  fills. The comparison is of float64 values bit by bit, as published: unlike ratios can tie too.
  """
  aspect = width / height
  area = width * height
  best = math.inf
  chosen = (1, 1)
  for columns, rows in grids(min_tiles, max_tiles):
    distance = abs(aspect - columns / rows)
    half = 0.5 * size * size * columns * rows
    is_nearer = distance < best
    is_tie = distance == best
    if is_nearer or (is_tie and area > half):
      best = distance
      chosen = (columns, rows)
  return chosen


def count(
  width: int, height: int, *, max_tiles: int, min_tiles: int = 1, size: int = 448, thumbnail: bool = True
) -> int:
  """How many tiles `tile` makes of an image of width × height pixels."""
  columns, rows = grid(width, height, max_tiles=max_tiles, min_tiles=min_tiles, size=size)
  tiles = columns * rows
  if thumbnail and tiles > 1:
    return tiles + 1
  return tiles


def tile(
  image: Image.Image, *, max_tiles: int, min_tiles: int = 1, size: int = 448, thumbnail: bool = True
) -> np.ndarray:
  """Cuts an RGB image into uint8 tiles [tiles, size, size, 3]: row-major, the thumbnail last."""
  columns, rows = grid(*image.size, max_tiles=max_tiles, min_tiles=min_tiles, size=size)
  stretched = image.resize((columns * size, rows * size), Image.Resampling.BICUBIC)
  pixels = np.asarray(stretched)
  cells = pixels.reshape(rows, size, columns, size, 3)
  by_tile = cells.swapaxes(1, 2)
  tiles = by_tile.reshape(-1, size, size, 3)
  if thumbnail and len(tiles) > 1:
    whole = single(image, size=size)
    tiles = np.concatenate([tiles, whole])
  return tiles


def single(image: Image.Image, *, size: int = 448) -> np.ndarray:
  """The whole RGB image as one uint8 tile [1, size, size, 3]: thumbnails and video frames."""
  resized = image.resize((size, size), Image.Resampling.BICUBIC)
  return np.asarray(resized)[None]


def share(max_tiles: int, images: int) -> int:
  """The cap on tiles of each image when `images` of them share one prompt."""
  return max(1, max_tiles // images)


def recompress(tiles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """JPEG augmentation: each uint8 tile through JPEG at an integer quality drawn from 75..100.

  Used for pre-training (arXiv 2508.18265 §2.2); drawn per tile, as the released code does.
  """
  qualities = rng.integers(75, 101, len(tiles))
  augmented = map(_jpeg, tiles, qualities.tolist())
  return np.stack(list(augmented))


def _jpeg(tile: np.ndarray, quality: int) -> np.ndarray:
  buffer = io.BytesIO()
  Image.fromarray(tile).save(buffer, 'JPEG', quality=quality)
  return np.asarray(Image.open(buffer))


def normalize(tiles: np.ndarray, mean=MEAN, std=STD) -> np.ndarray:
  """uint8 [..., 3] to float32 [..., 3]: scaled to 0..1, then standardised by channel."""
  centre = np.asarray(mean, np.float32)
  spread = np.asarray(std, np.float32)
  scaled = tiles.astype(np.float32) / np.float32(255)
  return (scaled - centre) / spread


def denormalize(pixels: np.ndarray, mean=MEAN, std=STD) -> np.ndarray:
  """The inverse of `normalize`: float [..., S, S, 3] to uint8."""
  scaled = pixels * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
  return np.clip(np.round(scaled * 255), 0, 255).astype(np.uint8)
