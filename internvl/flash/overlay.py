"""A picture of how a prompt's tiles were routed: each image as it was cut, compressed tiles tinted.

n tiles   S side of a tile
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from internvl.flash.routing import Routing
from internvl.inputs import tiles as tiling
from internvl.inputs.processor import Inputs
from internvl.inputs.processor_config import ProcessorConfig

CELL = 168  # pixels: side of a tile
GAP = 12  # pixels between images and before a thumbnail
TINT = (255, 140, 0)  # of compressed tiles
STRENGTH = 0.45  # of the tint
EDGE = {True: (200, 90, 0), False: (0, 120, 60)}  # by whether a tile is compressed
TEXT = 14


def draw(x: Inputs, routing: Routing, config: ProcessorConfig) -> Image.Image:
  """The images of a prompt below one another, a thumbnail to the right of its image; x: laid out in full.

  Every tile has its number, its image tokens, and its score where the router gave one. Raises ValueError for a prompt
  without tiles.
  """
  if not len(x.pixels):
    raise ValueError('a picture of tiles needs a prompt with an image')
  cells = tiling.denormalize(x.pixels, config.mean, config.std)
  cells = [_cell(cell, routing, number) for number, cell in enumerate(cells)]
  rows = []
  start = 0
  for count, grid in zip(x.tiles.tolist(), x.grids.tolist()):
    of_image = cells[start : start + count]
    rows.append(_image(of_image, *grid))
    start += count
  width = max(row.width for row in rows) + 2 * GAP
  height = sum(row.height + GAP for row in rows) + GAP
  page = Image.new('RGB', (width, height), 'white')
  top = GAP
  for row in rows:
    page.paste(row, (GAP, top))
    top += row.height + GAP
  return page


def _image(cells: list[Image.Image], columns: int, rows: int) -> Image.Image:
  """One image from its tiles in row-major order, and its thumbnail if there is one more tile."""
  thumbnail = len(cells) > columns * rows
  width = columns * CELL + thumbnail * (GAP + CELL)
  out = Image.new('RGB', (width, rows * CELL), 'white')
  for number, cell in enumerate(cells[: columns * rows]):
    row, column = divmod(number, columns)
    out.paste(cell, (column * CELL, row * CELL))
  if thumbnail:
    out.paste(cells[-1], (columns * CELL + GAP, 0))
  return out


def _cell(pixels: np.ndarray, routing: Routing, number: int) -> Image.Image:
  """One tile with its overlay."""
  is_compressed = bool(routing.compressed[number])
  cell = Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.BICUBIC)
  if is_compressed:
    tint = Image.new('RGB', cell.size, TINT)
    cell = Image.blend(cell, tint, STRENGTH)
  tokens = routing.compact_tokens if is_compressed else routing.tokens
  label = f'{number + 1}: {tokens} tokens'
  if routing.scores is not None:
    label += f', p={routing.scores[number]:.2f}'
  colour = EDGE[is_compressed]
  pen = ImageDraw.Draw(cell)
  edge = (0, 0, CELL - 1, CELL - 1)
  pen.rectangle(edge, outline=colour, width=3)
  font = ImageFont.load_default(TEXT)
  corner = (6, CELL - TEXT - 10)
  left, top, right, bottom = pen.textbbox(corner, label, font=font)
  paper = (left - 3, top - 3, right + 3, bottom + 3)
  pen.rectangle(paper, fill='white')
  pen.text(corner, label, fill=colour, font=font)
  return cell
