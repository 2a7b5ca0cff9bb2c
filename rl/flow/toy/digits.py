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
NO_INK = 1e-6  # takes the place of smaller sums that divide
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
  return Asked(
    digit=DIGITS.index(digit),
    ink=INK.index(ink),
    slant=SLANT.index(slant),
  )


def ink(levels: np.ndarray) -> np.ndarray:
  """[R]: the mean darkness, 0 to 1, of images [R, 8, 8] from 0 to 1."""
  return levels.mean((1, 2))


def slant(levels: np.ndarray) -> np.ndarray:
  """[R]: how far strokes lean to the right, in pixels a row upwards, of images [R, 8, 8] from 0 to 1."""
  pixels = (1, 2)
  down = _from_centre(levels.sum(2))[:, :, None]
  right = _from_centre(levels.sum(1))[:, None]
  spread = levels * down**2
  lean = -levels * down * right
  most = np.maximum(spread.sum(pixels), NO_INK)
  return lean.sum(pixels) / most


def _from_centre(ink: np.ndarray) -> np.ndarray:
  """float64 [R, 8]: where each row (or column) is from the centre of the ink [R, 8] of rows."""
  at = np.arange(SIDE, dtype=np.float64)
  total = np.maximum(ink.sum(1), NO_INK)
  moment = (ink * at).sum(1)
  centre = moment / total
  return at - centre[:, None]


def levels_of(images: Sequence[Image.Image]) -> np.ndarray:
  """float64 [R, 8, 8] from 0 (paper) to 1 (ink)."""
  pixels = [np.asarray(image, np.float64) for image in images]
  return np.stack(pixels) / 255


@functools.cache
def _levels(split: str) -> tuple[np.ndarray, np.ndarray]:
  """(float64 [R, 8, 8] from 0 to 1, digit int [R])."""
  scans = digits.scans(split)
  halved = scans.pixels[:, ::2, ::2, 0]
  return halved / 255, scans.labels


@functools.cache
def medians() -> Medians:
  """Of the training scans."""
  levels, digit = _levels('train')
  members = [digit == d for d in range(len(DIGITS))]

  def by_digit(measured: np.ndarray) -> np.ndarray:
    middles = [np.median(measured[which]) for which in members]
    return np.array(middles)

  return Medians(
    ink=by_digit(ink(levels)),
    slant=by_digit(slant(levels)),
  )


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
  clipped = np.clip(latents[..., 0], -1, 1)
  grey = np.rint(127.5 * (clipped + 1))
  pixels = grey.astype(np.uint8)
  return [Image.fromarray(image) for image in pixels]


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
  measured = (every.digit, every.ink, every.slant)
  agree = [values == wanted for values, wanted in zip(measured, asked)]
  fits = np.all(agree, axis=0)
  first = np.flatnonzero(fits)[:1]
  (image,) = decode(every.pixels[first])
  return image


def query(split: str, seed: int, index: int) -> Query:
  """Query `index`: a caption, drawn for training, in turn for evaluation; its solution is a scan."""
  number = index
  if split != 'heldout':
    rng = np.random.default_rng((seed, index))
    number = int(rng.integers(len(PROMPTS)))
  prompt = PROMPTS[number % len(PROMPTS)]
  message = {'role': 'user', 'content': prompt}
  return Query([message], answer=prompt, solution=_example(prompt))


TASK = Task(query, heldout=HELDOUT)
