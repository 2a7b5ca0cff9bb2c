"""A small visual task made from real data: two handwritten digits and a question about them.

The images are scikit-learn's 1797 scanned digits of 8 × 8 pixels (Alpaydin & Kaynak, UCI 1998), which its
package carries, so nothing is downloaded. A fixed stratified split keeps the images of training and held-out
examples disjoint. Examples are a function of (split, seed, index): a stream resumes anywhere, and any number
of processes draw the same ones.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.toy import rows

SPLITS = ('train', 'heldout')
QUESTIONS = ('Sum?', 'Larger?', 'Same parity?')
SUM, LARGER, PARITY = range(len(QUESTIONS))
# How each question is asked in files of training data, so that a model trained on them understands a user's words.
WORDINGS = (
  ('Sum?', 'What is the sum?', 'What is the sum of the digits?', 'Add the digits.'),
  ('Larger?', 'Which digit is larger?', 'What is the larger digit?', 'Which is greater?'),
  ('Same parity?', 'Do the digits have the same parity?', 'Are both even or both odd?', 'Is the sum even?'),
)
# Each 8 × 8 scan is doubled to 16 × 16 and two stand side by side.
WIDTH = 32
HEIGHT = 16
_BLOCK = 4096


class Example(NamedTuple):
  """image: RGB, 32 × 16. digits: what it shows, left to right. answer: of the question, exact."""

  image: Image.Image
  question: str
  answer: str
  digits: tuple[int, int]


class Scans(NamedTuple):
  """Handwritten digits and what they are."""

  pixels: np.ndarray  # uint8 [images, 16, 16, 3]
  labels: np.ndarray  # int [images]


@functools.cache
def scans(split: str) -> Scans:
  """The scans of a split; no scan is in both."""
  if split not in SPLITS:
    raise ValueError(f'unknown split {split!r}; known are {", ".join(SPLITS)}')
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  data = load_digits()
  parts = train_test_split(np.arange(len(data.target)), test_size=0.2, stratify=data.target, random_state=0)
  chosen = parts[SPLITS.index(split)]
  grey = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)  # the scans have 17 levels, 0..16
  doubled = grey.repeat(2, axis=1).repeat(2, axis=2)
  return Scans(np.repeat(doubled[..., None], 3, axis=-1), data.target[chosen])


class _Draws(NamedTuple):
  left: np.ndarray  # [_BLOCK] rows of the split
  right: np.ndarray
  question: np.ndarray


@functools.lru_cache(maxsize=16)
def _block(split: str, seed: int, block: int) -> _Draws:
  """`_BLOCK` examples at once: a generator for each would cost more than all the rest."""
  labels = scans(split).labels
  rng = np.random.default_rng((seed, block, SPLITS.index(split)))
  left, right = rng.integers(len(labels), size=(2, _BLOCK))
  question = rng.integers(len(QUESTIONS), size=_BLOCK)
  # "Which is larger?" has no answer for equal digits: draw the right one again until they differ.
  while (equal := (question == LARGER) & (labels[left] == labels[right])).any():
    right[equal] = rng.integers(len(labels), size=equal.sum())
  return _Draws(left, right, question)


def example(split: str, seed: int, index: int) -> Example:
  """Example number `index` of the endless stream of (split, seed); split is 'train' or 'heldout'."""
  if index < 0:
    raise ValueError(f'an example index must not be negative: {index}')
  images = scans(split)
  draws = _block(split, seed, index // _BLOCK)
  at = index % _BLOCK
  left = draws.left[at]
  right = draws.right[at]
  question = draws.question[at]
  pixels = np.concatenate([images.pixels[left], images.pixels[right]], axis=1)
  digits = int(images.labels[left]), int(images.labels[right])
  return Example(Image.fromarray(pixels), QUESTIONS[question], answer(question, *digits), digits)


def examples(split: str, seed: int, n: int, start: int = 0) -> list[Example]:
  """Examples start..start+n−1 of the stream."""
  return [example(split, seed, i) for i in range(start, start + n)]


def answer(question: int, left: int, right: int) -> str:
  """The exact answer to a question, given by its place in `QUESTIONS`."""
  if question == SUM:
    return str(left + right)
  if question == LARGER:
    return str(max(left, right))
  if (left - right) % 2 == 0:
    return 'yes'
  return 'no'


def worded(item: Example, index: int) -> Example:
  """The example with one of its question's wordings, chosen by the index."""
  wordings = WORDINGS[QUESTIONS.index(item.question)]
  draw = np.random.default_rng((index, len(QUESTIONS)))
  return item._replace(question=wordings[draw.integers(len(wordings))])


def export(folder: str | os.PathLike, split: str, seed: int, n: int) -> str:
  """Writes n examples in various wordings as training data (`core.toy.rows.write`); returns the JSONL file's path."""
  items = [worded(item, index) for index, item in enumerate(examples(split, seed, n))]
  return rows.write(folder, split, items)
