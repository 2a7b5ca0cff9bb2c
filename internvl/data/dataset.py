"""Supervised examples: rows of conversations as the model's inputs, by number, which makes them a grain source."""

import numpy as np

from core.conversations.rows import Rows
from internvl.inputs import video
from internvl.inputs.processor import Inputs, Processor


class Examples:
  """Training examples by number: `examples[i]` is the `Inputs` of row i; a grain random-access source.

  Args:
    rows: where they come from.
    processor: what makes them tokens and pixels.
    seed: of everything random in an example, which depends on (seed, i) alone.
    augment: JPEG recompression of every tile.
    pick: the rule that picks video frames.
  """

  def __init__(self, rows: Rows, processor: Processor, *, seed: int = 0, augment: bool = False, pick=video.middle):
    self.rows, self.processor, self.seed, self.augment, self.pick = rows, processor, seed, augment, pick

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> Inputs:
    messages, images, videos = self.rows[i]
    rng = np.random.default_rng((self.seed, i)) if self.augment else None
    try:
      return self.processor(messages, images, videos, pick=self.pick, augment=rng)
    except ValueError as error:
      raise ValueError(f'{self.rows.where(i)}: {error}') from error
