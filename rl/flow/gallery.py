"""Grids of images, written during a run."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image

from rl.rollout import Ask, Plan

SCALE = 5  # screen pixels of a pixel
GAP = 2  # pixels between images
SHOWN = 40  # images of a grid


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
  """Images of one size by rows, dark on light as scans are."""
  width, height = images[0].size
  rows = -(-len(images) // columns)
  whole_width = columns * (width + GAP) - GAP
  whole_height = rows * (height + GAP) - GAP
  sheet = Image.new('L', (whole_width, whole_height), 128)
  for i, image in enumerate(images):
    row, column = divmod(i, columns)
    inverted = Image.fromarray(255 - np.asarray(image))
    sheet.paste(inverted, (column * (width + GAP), row * (height + GAP)))
  return sheet.resize((SCALE * sheet.width, SCALE * sheet.height), Image.Resampling.NEAREST)


@dataclasses.dataclass(frozen=True)
class Gallery:
  """`plan`, whose first images are also written to `folder`, numbered in the order of the calls.

  sheet(images, columns): the picture that is written.
  """

  plan: Plan
  folder: pathlib.Path
  columns: int
  sheet: Callable[[Sequence[Image.Image], int], Image.Image] = grid

  def __call__(self, sampler, ask: Ask) -> list:
    """As of `rl.rollout.Plan`."""
    groups = self.plan(sampler, ask)
    if jax.process_index() == 0:
      self.folder.mkdir(parents=True, exist_ok=True)
      number = len(list(self.folder.glob('*.png')))
      images = [group[0].response for group in groups[:SHOWN]]
      self.sheet(images, self.columns).save(self.folder / f'{number:03d}.png')
    return groups
