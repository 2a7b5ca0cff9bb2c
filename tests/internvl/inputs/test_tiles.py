"""Dynamic tiling: published grids, the pixels of each tile, and images that must be refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl.inputs import tiles

# (width, height): grid at up to 12 tiles, grid at up to 6.
GRIDS = {
  (448, 448): ((1, 1), (1, 1)),
  (633, 633): ((1, 1), (1, 1)),
  (634, 634): ((2, 2), (2, 2)),
  (800, 600): ((4, 3), (3, 2)),
  (1000, 1000): ((3, 3), (2, 2)),
  (1280, 720): ((4, 2), (2, 1)),
  (1920, 1080): ((4, 2), (2, 1)),
  (1080, 1920): ((2, 4), (1, 2)),
  (900, 400): ((2, 1), (2, 1)),
  (1350, 600): ((4, 2), (2, 1)),
  (4000, 300): ((12, 1), (6, 1)),
}


def noise(width, height, seed=0):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize('size', GRIDS)
def test_published_grids(size):
  assert (tiles.grid(*size, max_tiles=12), tiles.grid(*size, max_tiles=6)) == GRIDS[size]


def test_number_of_candidates():
  assert [len(tiles.grids(1, n)) for n in (6, 12, 18, 24, 36)] == [14, 35, 58, 84, 140]
  with pytest.raises(ValueError, match='min 3, max 2'):
    tiles.grids(3, 2)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(8, 600))
def test_a_grid_is_a_nearest_candidate_whatever_their_order(width, height, most, size):
  columns, rows = tiles.grid(width, height, max_tiles=most, size=size)
  best = min(abs(width / height - i / j) for i, j in tiles.grids(1, most))
  assert abs(width / height - columns / rows) == best
  # Among equal areas the order of iteration must not matter: no two of them tie.
  tied = [(i, j) for i, j in tiles.grids(1, most) if abs(width / height - i / j) == best]
  assert len({i * j for i, j in tied}) == len(tied)


def test_tiles_are_row_major_crops_of_the_stretched_image_then_a_thumbnail():
  image = noise(70, 50)
  got = tiles.tile(image, max_tiles=6, size=16)
  columns, rows = tiles.grid(70, 50, max_tiles=6, size=16)
  assert (columns, rows) == (3, 2)
  whole = image.resize((16 * columns, 16 * rows), Image.Resampling.BICUBIC)
  for k in range(columns * rows):
    x, y = k % columns * 16, k // columns * 16
    np.testing.assert_array_equal(got[k], np.asarray(whole.crop((x, y, x + 16, y + 16))))
  np.testing.assert_array_equal(got[-1], np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))
  assert len(got) == columns * rows + 1 == tiles.count(70, 50, max_tiles=6, size=16)
  assert len(tiles.tile(image, max_tiles=6, size=16, thumbnail=False)) == columns * rows
  assert len(tiles.tile(image, max_tiles=1, size=16)) == 1


def test_many_rows_are_cut_in_reading_order():
  image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(3, 2).repeat(4, 0).repeat(4, 1)).convert('RGB')
  got = tiles.tile(image, max_tiles=6, min_tiles=6, size=4)
  assert [int(t[0, 0, 0]) for t in got[:6]] == [0, 1, 2, 3, 4, 5]


def test_images_of_one_prompt_share_the_tiles():
  assert [tiles.share(12, n) for n in (1, 2, 5, 12, 30)] == [12, 6, 2, 1, 1]


def test_normalize_by_hand():
  got = tiles.normalize(np.asarray([[[[0, 128, 255]]]], np.uint8))
  want = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
  np.testing.assert_allclose(got[0, 0, 0], want, rtol=1e-6)
  assert got.dtype == np.float32 and got.shape == (1, 1, 1, 3)


def test_recompression_is_seeded_and_small():
  ramp = np.linspace(0, 255, 32, dtype=np.uint8)
  smooth = np.broadcast_to(ramp[:, None], (4, 32, 32, 3))
  once, again, other = (tiles.recompress(smooth, np.random.default_rng(s)) for s in (1, 1, 2))
  np.testing.assert_array_equal(once, again)
  assert (once != other).any() and (once != smooth).any()
  assert np.abs(once.astype(int) - smooth).max() < 24
