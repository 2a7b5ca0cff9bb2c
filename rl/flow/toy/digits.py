"""Scans of handwritten digits with captions such as "a thick slanted seven", whose adjectives are measured.

The scans are those of `core.toy.digits`, 8 × 8 pixels.   R images
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import digits
from rl.query import Query
from rl.tasks import Task

SIDE = 8
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
INK = ('thin', 'thick')
SLANT = ('upright', 'slanted')
PROMPTS = tuple(f'a {ink} {slant} {digit}' for digit in DIGITS for ink in INK for slant in SLANT)
HELDOUT = 6 * len(PROMPTS)  # each prompt from six different noises


class Asked(NamedTuple):
  """What a caption asks for: places in DIGITS, INK and SLANT."""

  digit: int
  ink: int
  slant: int


class Scans(NamedTuple):
  """pixels: float32 [R, 8, 8, 1] from −1 (paper) to 1 (ink). digit, ink, slant: int [R], as in `Asked`."""

  pixels: np.ndarray
  digit: np.ndarray
  ink: np.ndarray
  slant: np.ndarray

  def caption(self, i: int) -> str:
    """Of one scan."""
    ink = INK[self.ink[i]]
    slant = SLANT[self.slant[i]]
    digit = DIGITS[self.digit[i]]
    return f'a {ink} {slant} {digit}'


class Medians(NamedTuple):
  """By digit [10]: the thickness and the slant that divide the training scans in two halves."""

  ink: np.ndarray
  slant: np.ndarray


def read(prompt: str) -> Asked:
  """What a caption asks for. Raises ValueError for any other text."""
  if prompt not in PROMPTS:
    raise ValueError(f'prompt {prompt!r:.80}: expected "a thin|thick upright|slanted <digit>"')
  _, ink, slant, digit = prompt.split()
  return Asked(DIGITS.index(digit), INK.index(ink), SLANT.index(slant))


def ink(levels: np.ndarray) -> np.ndarray:
  """[R]: the mean darkness, 0 to 1, of images [R, 8, 8] from 0 to 1."""
  return levels.mean((1, 2))


def slant(levels: np.ndarray) -> np.ndarray:
  """[R]: how far strokes lean to the right, in pixels a row upwards, of images [R, 8, 8] from 0 to 1."""
  at = np.arange(SIDE, dtype=np.float64)
  pixels = (1, 2)
  total = np.maximum(levels.sum(pixels), 1e-6)
  by_row = levels.sum(2)
  by_column = levels.sum(1)
  row = (by_row * at).sum(1) / total
  column = (by_column * at).sum(1) / total
  down = at[None, :, None] - row[:, None, None]
  right = at[None, None, :] - column[:, None, None]
  spread = (levels * down**2).sum(pixels)
  lean = -(levels * down * right).sum(pixels)
  return lean / np.maximum(spread, 1e-6)


def levels_of(images: Sequence[Image.Image]) -> np.ndarray:
  """float64 [R, 8, 8] from 0 (paper) to 1 (ink)."""
  return np.stack([np.asarray(image, np.float64) for image in images]) / 255


@functools.cache
def _levels(split: str) -> tuple[np.ndarray, np.ndarray]:
  """(float64 [R, 8, 8] from 0 to 1, digit int [R])."""
  scans = digits.scans(split)
  return scans.pixels[:, ::2, ::2, 0] / 255, scans.labels


@functools.cache
def medians() -> Medians:
  """Of the training scans."""
  levels, digit = _levels('train')

  def by_digit(measured: np.ndarray) -> np.ndarray:
    return np.array([np.median(measured[digit == d]) for d in range(len(DIGITS))])

  return Medians(by_digit(ink(levels)), by_digit(slant(levels)))


@functools.cache
def scans(split: str) -> Scans:
  """The scans of 'train' or 'heldout' with their measured attributes."""
  levels, digit = _levels(split)
  middle = medians()
  is_thick = ink(levels) > middle.ink[digit]
  is_slanted = slant(levels) > middle.slant[digit]
  pixels = np.float32(2 * levels - 1)
  return Scans(
    pixels=pixels[..., None],
    digit=digit,
    ink=np.int64(is_thick),
    slant=np.int64(is_slanted),
  )


def decode(latents: np.ndarray) -> list[Image.Image]:
  """Latents float32 [R, 8, 8, 1], which are pixels from −1 to 1, as grey images."""
  grey = np.rint(127.5 * (np.clip(latents[..., 0], -1, 1) + 1)).astype(np.uint8)
  return [Image.fromarray(image) for image in grey]


def draw(rng: np.random.Generator, n: int) -> list[tuple[np.ndarray, str]]:
  """n training scans as latents [8, 8, 1], with their captions."""
  every = scans('train')
  chosen = rng.integers(len(every.digit), size=n)
  return [(every.pixels[i], every.caption(i)) for i in chosen]


@functools.cache
def _example(prompt: str) -> Image.Image:
  """A training scan with this caption."""
  asked = read(prompt)
  every = scans('train')
  fits = (every.digit == asked.digit) & (every.ink == asked.ink) & (every.slant == asked.slant)
  return decode(every.pixels[np.flatnonzero(fits)[:1]])[0]


def query(split: str, seed: int, index: int) -> Query:
  """Query `index`: a caption, drawn for training, in turn for evaluation; its solution is a scan."""
  number = index if split == 'heldout' else int(np.random.default_rng((seed, index)).integers(len(PROMPTS)))
  prompt = PROMPTS[number % len(PROMPTS)]
  return Query([{'role': 'user', 'content': prompt}], answer=prompt, solution=_example(prompt))


TASK = Task(query, heldout=HELDOUT)
