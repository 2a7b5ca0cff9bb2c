"""A visual task in which some parts of an image need a fine look and others do not: coloured panels with digits.

An image is a row of four panels of different colours. A panel is blank, shows one large digit, or shows four small
digits, one in each quarter. Each quarter has its own shade, and a letter: `abcd` are the quarters of the red panel, row
by row, `efgh` those of the green one, then blue and yellow. A prompt asks about two quarters of each panel in random
order, such as `c?h?p?b?...`; the answer has what is in the quarter in place of each question mark, `c5h-p2b5...`. A
large digit is in all quarters of its panel.

A panel is one tile of the tiny model and a quarter is one image token, so a compressed tile has one image token for
four small digits. Question and answer have the same layout, so each question mark is a fixed number of tokens before
its answer. Examples are a function of (split, seed, index).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import rows
from core.toy.digits import SPLITS

PANELS = 4
SIDE = 16  # pixels of a panel
KINDS = ('blank', 'large', 'dense')
SHARES = (0.3, 0.4, 0.3)  # of the kinds
BLANK, LARGE, DENSE = range(len(KINDS))
COLOURS = {'r': (255, 150, 150), 'g': (140, 230, 140), 'b': (150, 170, 255), 'y': (250, 240, 130)}
QUARTERS = 4  # of a panel
ASKED = 2  # quarters of each panel that a question asks about
SHADES = (1.0, 0.85, 0.7, 0.55)  # brightness of the quarters of a panel
_INK = 30
_NOISE = 8  # standard deviation of each pixel's brightness
# Digits of 3 x 5 dots.
_FONT = (
  ('###', '# #', '# #', '# #', '###'),
  (' # ', '## ', ' # ', ' # ', '###'),
  ('###', '  #', '###', '#  ', '###'),
  ('###', '  #', ' ##', '  #', '###'),
  ('# #', '# #', '###', '  #', '  #'),
  ('###', '#  ', '###', '  #', '###'),
  ('###', '#  ', '###', '# #', '###'),
  ('###', '  #', ' # ', ' # ', ' # '),
  ('###', '# #', '###', '# #', '###'),
  ('###', '# #', '###', '  #', '###'),
)
_GLYPHS = np.array([[list(line) for line in glyph] for glyph in _FONT]) == '#'


class Panel(NamedTuple):
  """kind: number in KINDS. text: what each quarter shows, row by row; '-' for nothing."""

  colour: str
  kind: int
  text: str


class Example(NamedTuple):
  """image: RGB, 64 × 16. answer: of the question, exact. panels: left to right."""

  image: Image.Image
  question: str
  answer: str
  panels: tuple[Panel, ...]


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed); split is 'train' or 'heldout'."""
  if split not in SPLITS:
    raise ValueError(f'unknown split {split!r}; known are {", ".join(SPLITS)}')
  rng = np.random.default_rng((seed, index, SPLITS.index(split), PANELS))
  colours = rng.permutation(list(COLOURS))
  panels = tuple(_panel(colour, rng) for colour in colours)
  pixels = np.concatenate([_draw(panel, rng) for panel in panels], axis=1)
  words = []
  for panel in panels:
    quarters = rng.permutation(QUARTERS)[:ASKED]
    words += [_word(panel, int(quarter)) for quarter in quarters]
  asked = [str(word) for word in rng.permutation(words)]
  question = ''.join(word[0] + '?' for word in asked)
  return Example(Image.fromarray(pixels), question, ''.join(asked), panels)


def _panel(colour: str, rng: np.random.Generator) -> Panel:
  kind = int(rng.choice(len(KINDS), p=SHARES))
  digits = rng.integers(10, size=QUARTERS)
  if kind == BLANK:
    text = '-' * QUARTERS
  elif kind == LARGE:
    text = str(digits[0]) * QUARTERS
  else:
    text = ''.join(map(str, digits))
  return Panel(str(colour), kind, text)


def _word(panel: Panel, quarter: int) -> str:
  """The letter of a quarter and what it shows."""
  return letter(panel.colour, quarter) + panel.text[quarter]


def letter(colour: str, quarter: int) -> str:
  """The name of a quarter, 0 to 3 row by row, of the panel of this colour."""
  number = QUARTERS * list(COLOURS).index(colour) + quarter
  return chr(ord('a') + number)


def _draw(panel: Panel, rng: np.random.Generator) -> np.ndarray:
  """uint8 [SIDE, SIDE, 3]; a large digit is shifted by a pixel or none, and all pixels are noisy."""
  ink = np.zeros((SIDE, SIDE), bool)
  half = SIDE // 2
  if panel.kind == LARGE:
    row, column = rng.integers(2, size=2)
    digit = int(panel.text[0])
    _stamp(ink, digit, scale=3, corner=(row, 3 + column))
  if panel.kind == DENSE:
    for i, digit in enumerate(panel.text):
      row, column = divmod(i, 2)
      top = half * row + 1
      left = half * column + 2
      _stamp(ink, int(digit), scale=1, corner=(top, left))
  quarters = np.reshape(SHADES, (2, 2))
  shades = _enlarged(quarters, half)
  colour = np.array(COLOURS[panel.colour])
  paper = shades[..., None] * colour
  pixels = np.where(ink[..., None], _INK, paper)
  noisy = pixels + _NOISE * rng.standard_normal((SIDE, SIDE, 1))
  rounded = np.clip(np.rint(noisy), 0, 255)
  return rounded.astype(np.uint8)


def _stamp(ink: np.ndarray, digit: int, *, scale: int, corner: tuple[int, int]) -> None:
  """Draws a digit into `ink`; corner: (row, column) of its upper left dot."""
  glyph = _enlarged(_GLYPHS[digit], scale)
  row, column = corner
  height, width = glyph.shape
  bottom = row + height
  right = column + width
  ink[row:bottom, column:right] |= glyph


def _enlarged(dots: np.ndarray, scale: int) -> np.ndarray:
  """Each dot of [Y, X] as a square of `scale` dots."""
  taller = dots.repeat(scale, axis=0)
  return taller.repeat(scale, axis=1)


def export(folder: str | os.PathLike, split: str, seed: int, n: int) -> str:
  """Writes n examples as training data (`core.toy.rows.write`); returns the path of the JSONL file."""
  examples = (example(split, seed, i) for i in range(n))
  return rows.write(folder, split, examples)
