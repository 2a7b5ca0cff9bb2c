"""A visual task in which some parts of an image need a fine look and others do not: coloured panels with digits.

An image is a row of four panels, each of another colour. A panel is blank, has one large digit, or has four small ones,
which are legible only at full resolution. The question names the panels by colour, in an order of its own, and the
answer has one word for each: its colour and what it shows, such as `g5 r- y7294 b0`.
Panels are as wide as a tile of the tiny model, so that a tile is one panel. Examples are a function of (split, seed,
index).
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
SHARES = (0.3, 0.45, 0.25)  # of the kinds
BLANK, LARGE, DENSE = range(len(KINDS))
COLOURS = {'r': (255, 150, 150), 'g': (140, 230, 140), 'b': (150, 170, 255), 'y': (250, 240, 130)}
SMALL = 4  # digits of a dense panel
_INK = 40
_NOISE = 12  # standard deviation of each pixel's brightness
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
_GLYPHS = np.array([[[dot == '#' for dot in line] for line in glyph] for glyph in _FONT])


class Panel(NamedTuple):
  """kind: number in KINDS. text: what is to be read; '-' for a blank panel."""

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
  panels = tuple(_panel(colour, rng) for colour in rng.permutation(list(COLOURS)))
  pixels = np.concatenate([_draw(panel, rng) for panel in panels], axis=1)
  asked = [panels[i] for i in rng.permutation(PANELS)]
  question = ''.join(panel.colour for panel in asked)
  answer = ' '.join(panel.colour + panel.text for panel in asked)
  return Example(Image.fromarray(pixels), question, answer, panels)


def _panel(colour: str, rng: np.random.Generator) -> Panel:
  kind = int(rng.choice(len(KINDS), p=SHARES))
  count = {BLANK: 0, LARGE: 1, DENSE: SMALL}[kind]
  text = ''.join(map(str, rng.integers(10, size=count)))
  return Panel(str(colour), kind, text or '-')


def _draw(panel: Panel, rng: np.random.Generator) -> np.ndarray:
  """uint8 [SIDE, SIDE, 3]; digits are shifted by a pixel or none, and all pixels are noisy."""
  ink = np.zeros((SIDE, SIDE), bool)
  if panel.kind == LARGE:
    _stamp(ink, int(panel.text), scale=3, corner=(0, 3), rng=rng)
  if panel.kind == DENSE:
    half = SIDE // 2
    for i, digit in enumerate(panel.text):
      corner = half * (i // 2) + 1, half * (i % 2) + 2
      _stamp(ink, int(digit), scale=1, corner=corner, rng=rng)
  pixels = np.where(ink[..., None], _INK, np.array(COLOURS[panel.colour]))
  noisy = pixels + _NOISE * rng.standard_normal((SIDE, SIDE, 1))
  return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _stamp(ink: np.ndarray, digit: int, *, scale: int, corner: tuple[int, int], rng: np.random.Generator) -> None:
  """Draws a digit into `ink`; corner: (row, column) of its upper left dot before the shift."""
  glyph = _GLYPHS[digit].repeat(scale, axis=0).repeat(scale, axis=1)
  row, column = np.asarray(corner) + rng.integers(2, size=2)
  ink[row : row + glyph.shape[0], column : column + glyph.shape[1]] |= glyph


def export(folder: str | os.PathLike, split: str, seed: int, n: int) -> str:
  """Writes n examples as training data (`core.toy.rows.write`); returns the path of the JSONL file."""
  return rows.write(folder, split, (example(split, seed, i) for i in range(n)))
