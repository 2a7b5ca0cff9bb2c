"""Supervised examples: rows of conversations as the model's inputs, by number, which makes them a grain source."""

from typing import Literal

import numpy as np
from absl import logging

from core.conversations.rows import Rows
from internvl.inputs import video
from internvl.inputs.processor import Inputs, Processor

BadRows = Literal['refuse', 'skip']


class Examples:
  """Training examples by number: `examples[i]` is the `Inputs` of row i; a grain random-access source.

  Args:
    rows: where they come from.
    processor: what makes them tokens and pixels.
    seed: of everything random in an example, which depends on (seed, i) alone.
    augment: JPEG recompression of every tile.
    pick: the rule that picks video frames.
    max_tiles: limit of tiles an image; None: the processor's.
    bad_rows: a row that cannot be used is an error; or it is logged, and its example is `blank`.
  """

  def __init__(
    self,
    rows: Rows,
    processor: Processor,
    *,
    seed: int = 0,
    augment: bool = False,
    pick=video.middle,
    max_tiles: int | None = None,
    bad_rows: BadRows = 'refuse',
  ):
    self.rows = rows
    self.processor = processor
    self.seed = seed
    self.augment = augment
    self.pick = pick
    self.max_tiles = max_tiles
    self.bad_rows = bad_rows

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> Inputs:
    try:
      return self._example(i)
    except (ValueError, FileNotFoundError) as error:
      if self.bad_rows == 'refuse':
        raise
      logging.log_first_n(logging.WARNING, 'skipped: %s', 20, error)
      return blank(self.processor)

  def _example(self, i: int) -> Inputs:
    messages, images, videos = self.rows[i]
    rng = None
    if self.augment:
      rng = np.random.default_rng((self.seed, i))
    try:
      return self.processor(messages, images, videos, pick=self.pick, augment=rng, max_tiles=self.max_tiles)
    except ValueError as error:
      raise ValueError(f'{self.rows.where(i)}: {error}') from error


def blank(processor: Processor) -> Inputs:
  """What replaces a row that cannot be used: one token of padding, with nothing to learn and no image."""
  side = processor.config.image_size
  pixels = np.zeros((0, side, side, 3), np.float32)
  tokens = np.array([processor.pad_id], np.int32)
  none = np.zeros(0, np.int32)
  return Inputs(
    tokens=tokens,
    mask=np.array([False]),
    pixels=pixels,
    tiles=none,
    tile_tokens=none,
    grids=none.reshape(0, 2),
  )


def is_blank(x: Inputs) -> bool:
  """Whether an example is `blank`: no conversation is a single token."""
  return len(x.tokens) == 1
