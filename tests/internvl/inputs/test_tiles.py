"""Dynamic tiling: published grids, the pixels of each tile, and images that must be refused."""

import io
import struct
import warnings
import zlib

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


def test_every_usual_kind_of_file(tmp_path):
  rgb = noise(24, 16)
  path = tmp_path / 'x'
  for mode, fmt in (
    ('RGB', 'PNG'),
    ('L', 'PNG'),
    ('1', 'PNG'),
    ('P', 'GIF'),
    ('RGBA', 'PNG'),
    ('LA', 'PNG'),
    ('CMYK', 'JPEG'),
    ('YCbCr', 'JPEG'),
  ):
    rgb.convert(mode).save(path, fmt)
    image = tiles.load_image(path)
    assert (image.mode, image.size) == ('RGB', (24, 16)), mode
  assert tiles.load_image(np.asarray(rgb)).tobytes() == rgb.tobytes()
  assert tiles.load_image(rgb).tobytes() == rgb.tobytes()


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
  Image.fromarray(np.asarray([[0, 0x80FF, 0xFFFF]], np.uint16)).save(tmp_path / 'grey.png')
  assert np.asarray(tiles.load_image(tmp_path / 'grey.png'))[0, :, 0].tolist() == [0, 0x80, 0xFF]


def test_files_are_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held a quarter turn to the left
  noise(24, 16).save(tmp_path / 'turned.jpg', exif=exif)
  assert tiles.load_image(tmp_path / 'turned.jpg').size == (16, 24)
  assert tiles.load_image(Image.open(tmp_path / 'turned.jpg')).size == (16, 24)


def test_an_animation_counts_by_its_first_frame(tmp_path):
  frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'blue')]
  frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:])
  assert tiles.load_image(tmp_path / 'a.gif').getpixel((0, 0)) == (255, 0, 0)


def test_unusable_files_are_named(tmp_path):
  whole = io.BytesIO()
  noise(64, 64).save(whole, 'PNG')
  postscript = io.BytesIO()
  noise(8, 8).save(postscript, 'EPS')  # Pillow would start Ghostscript to read it
  bad = {
    'text.png': b'not an image',
    'script.png': postscript.getvalue(),
    'empty.png': b'',
    'cut.png': whole.getvalue()[:2000],
    'head.png': whole.getvalue()[:20],
  }
  for name, content in bad.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name}: not a readable image'):
      tiles.load_image(tmp_path / name)
  with pytest.raises(FileNotFoundError, match=r'none\.png'):
    tiles.load_image(tmp_path / 'none.png')
  Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'float.tiff')
  with pytest.raises(ValueError, match=r"float\.tiff: pixels of mode 'F'"):
    tiles.load_image(tmp_path / 'float.tiff')


def png_claiming(side):
  """A PNG of a few bytes whose header promises side × side pixels."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 99))


def test_needles_voids_and_bombs_are_refused_with_the_limit(tmp_path):
  Image.new('RGB', (20000, 10)).save(tmp_path / 'needle.png')
  with pytest.raises(ValueError, match=r'needle\.png: 20000×10 has an aspect .* 2000:1; the limit is 200:1'):
    tiles.load_image(tmp_path / 'needle.png')
  for side, why in ((10_000, 'the limit is 89478485'), (60_000, 'decompression bomb')):
    (tmp_path / 'bomb.png').write_bytes(png_claiming(side))
    with pytest.raises(ValueError, match=rf'bomb\.png.*{why}'), warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      tiles.load_image(tmp_path / 'bomb.png')
  with pytest.raises(ValueError, match='no pixels'):
    tiles.load_image(np.zeros((0, 5, 3), np.uint8))
  with pytest.raises(ValueError, match='no pixels'):
    tiles.load_image(Image.new('RGB', (0, 5)))
  with pytest.raises(ValueError, match='float64'):
    tiles.load_image(np.zeros((5, 5, 3)))
  with pytest.raises(ValueError, match='int'):
    tiles.load_image(3)
