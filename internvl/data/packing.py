"""Training rows of several whole samples each, from files to batches.

Each row of a batch packs a share of the data of its own. So what a row holds depends neither on how many processes
there are nor on which of them reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core.training import data
from internvl import losses
from internvl.data.dataset import Examples, is_blank
from internvl.inputs.processor import Inputs
from internvl.training.configs import Config

# Features of each token: 1 at the last one of a sample that did not fit a row whole, 1 in place of an unusable row.
CUT = 'cut'
BAD = 'bad'
FIRST = 'first'  # feature of each tile: 1 at the first one of an image


def shorten(x: Inputs, image_id: int, length: int, tiles: int) -> Inputs:
  """The beginning of a sample that fits `length` tokens and `tiles` tiles, ending before an image it would cut.

  If nothing to learn remains, it is one token long: it takes no space in rows, and is still counted.
  """
  context = np.flatnonzero(x.tokens == image_id)
  ends = np.cumsum(x.tiles)
  token_ends = np.concatenate([[0], np.cumsum(x.tile_tokens)])
  kept = 0
  end = min(length, len(x.tokens))
  for number, (count, last) in enumerate(zip(x.tiles, ends), 1):
    first = context[token_ends[last - count]] - 1  # <img>
    behind = context[token_ends[last] - 1] + 2  # after </img>
    if behind > end or last > tiles:
      end = min(end, int(first))
      break
    kept = number
  if not x.mask[:end].any():
    kept = 0
    end = 1
  total = 0
  if kept:
    total = int(ends[kept - 1])
  return Inputs(
    tokens=x.tokens[:end],
    mask=x.mask[:end],
    pixels=x.pixels[:total],
    tiles=x.tiles[:kept],
    tile_tokens=x.tile_tokens[:total],
    grids=x.grids[:kept],
  )


def features(x: Inputs, image_id: int, c: Config) -> dict[str, np.ndarray]:
  """What is packed of one sample. Raises ValueError for one that is too long and may not be shortened."""
  cut = len(x.tokens) > c.length or len(x.pixels) > c.tiles
  if cut and c.too_long == 'refuse':
    raise ValueError(
      f'a sample has {len(x.tokens)} tokens and {len(x.pixels)} tiles: expected at most {c.length} and {c.tiles}'
    )
  bad = is_blank(x)
  if cut:
    x = shorten(x, image_id, c.length, c.tiles)
  last = np.zeros(len(x.tokens), np.int32)
  last[-1] = cut
  return {
    'tokens': x.tokens,
    'weights': losses.token_weights(x.mask, c.averaging),
    CUT: last,
    BAD: np.full(len(x.tokens), bad, np.int32),
    'pixels': x.pixels.astype(jnp.dtype(c.dtype)),
    'tile_tokens': x.tile_tokens,
    FIRST: _first_tiles(x.tiles),
  }


def _first_tiles(tiles: np.ndarray) -> np.ndarray:
  """int32 [N]: 1 at the first tile of each image, of images with `tiles` tiles each."""
  first = np.zeros(int(tiles.sum()), np.int32)
  first[np.cumsum(tiles) - tiles] = 1
  return first


def budgets(c: Config) -> dict[str, int]:
  """The size of a packed row in each feature."""
  by_token = dict.fromkeys(('tokens', 'weights', CUT, BAD), c.length)
  by_tile = dict.fromkeys(('pixels', 'tile_tokens', FIRST), c.tiles)
  return by_token | by_tile


def batches(
  parts: Sequence[Examples],
  c: Config,
  *,
  shares: Sequence[float] | None = None,
  which: int | None = None,
  many: int | None = None,
) -> grain.DatasetIterator:
  """An endless iterator of this process's rows of each batch, dictionaries of arrays [B / processes, …].

  shares: of each part in the mixture, by default equal. which, many: the process and their number, by default as they
  are. Raises ValueError when the rows cannot be shared out evenly.
  """
  if which is None:
    which = jax.process_index()
  many = many or jax.process_count()
  if c.batch % many:
    raise ValueError(f'batch={c.batch} rows cannot be shared by {many} processes')
  shares = shares or (1.0,) * len(parts)
  mixture = {str(i): (part, share) for i, (part, share) in enumerate(zip(parts, shares))}
  own = c.batch // many
  image_id = parts[0].processor.image_id
  lengths = budgets(c)
  rows = []
  for row in range(which * own, (which + 1) * own):
    samples = data.mix(mixture, seed=c.seed, shard=(row, c.batch)).map(lambda x: features(x, image_id, c))
    rows.append(data.pack(samples.to_iter_dataset(), lengths, rows=c.open_rows))
  rows = grain.IterDataset.mix(rows) if own > 1 else rows[0]  # of equal weight: in turn
  return data.batches(rows, own, workers=c.workers)


def batch(rows: dict) -> losses.Batch:
  """What the step takes of the iterator's rows."""
  positions = jnp.where(rows['segments'] > 0, rows['positions'], -1)
  return losses.Batch(
    tokens=rows['tokens'],
    positions=positions,
    weights=rows['weights'],
    pixels=rows['pixels'],
    segments=rows['segments'],
    tile_tokens=rows['tile_tokens'],
    tile_segments=rows['pixels_segments'],
    tile_images=jnp.cumsum(rows[FIRST], -1),
  )


def counts(rows: dict) -> dict:
  """What a batch holds: tokens, samples, tiles, shortened samples, unusable rows, and the shares that are padding."""
  some = rows['segments'] > 0
  tiles = rows['pixels_segments'] > 0
  return {
    'tokens': some.sum(),
    'padding': 1 - some.mean(),
    'samples': rows['segments'].max(1).sum(),
    'tiles': tiles.sum(),
    'tile_padding': 1 - tiles.mean(),
    'shortened': rows[CUT].sum(),
    'bad_rows': rows[BAD].sum(),
  }


class Lessons:
  """Checks that batches have something to learn; a run without any would end with a loss of 0.

  It reads the metrics of the step before the one just launched, which are those of the whole batch: all processes reach
  the same decision, and no device waits.
  """

  LIMIT = 10

  def __init__(self):
    self.empty = 0
    self._launched: Mapping[str, Any] | None = None

  def launched(self, metrics: Mapping[str, Any]) -> None:
    """Takes the metrics of a step; warns of an earlier one without a lesson, raises ValueError at LIMIT in a row."""
    before = self._launched
    self._launched = metrics
    if before is not None:
      self._look(before)

  def finish(self) -> None:
    """Looks at the last step."""
    if self._launched is not None:
      self._look(self._launched)

  def _look(self, metrics: Mapping[str, Any]) -> None:
    if float(metrics['weight']) > 0:
      self.empty = 0
      return
    self.empty += 1
    cause = f'{int(metrics["shortened"])} samples were cut before their answer, {int(metrics["bad_rows"])} skipped'
    if self.empty == 1:
      logging.warning('a batch has nothing to learn: %s', cause)
    if self.empty == self.LIMIT:
      raise ValueError(f'{self.LIMIT} batches in a row have nothing to learn: {cause}; expected answers within a row')
