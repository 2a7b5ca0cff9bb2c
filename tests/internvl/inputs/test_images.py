"""Images of any origin come out upright, RGB and 8-bit, or are refused with their name and the reason."""

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from internvl.inputs import images


def noise(width, height, seed=0):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


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
    image = images.load(path)
    assert (image.mode, image.size) == ('RGB', (24, 16)), mode
  assert images.load(np.asarray(rgb)).tobytes() == rgb.tobytes()
  assert images.load(rgb).tobytes() == rgb.tobytes()


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
  Image.fromarray(np.asarray([[0, 0x80FF, 0xFFFF]], np.uint16)).save(tmp_path / 'grey.png')
  assert np.asarray(images.load(tmp_path / 'grey.png'))[0, :, 0].tolist() == [0, 0x80, 0xFF]


def test_files_are_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held a quarter turn to the left
  noise(24, 16).save(tmp_path / 'turned.jpg', exif=exif)
  assert images.load(tmp_path / 'turned.jpg').size == (16, 24)
  assert images.load(Image.open(tmp_path / 'turned.jpg')).size == (16, 24)


def test_an_animation_counts_by_its_first_frame(tmp_path):
  frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'blue')]
  frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:])
  assert images.load(tmp_path / 'a.gif').getpixel((0, 0)) == (255, 0, 0)


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
      images.load(tmp_path / name)
  with pytest.raises(FileNotFoundError, match=r'none\.png'):
    images.load(tmp_path / 'none.png')
  Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / 'float.tiff')
  with pytest.raises(ValueError, match=r"float\.tiff: pixels of mode 'F'"):
    images.load(tmp_path / 'float.tiff')


def png_claiming(side):
  """A PNG of a few bytes whose header promises side × side pixels."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 99))


def test_needles_voids_and_bombs_are_refused_with_the_limit(tmp_path):
  Image.new('RGB', (20000, 10)).save(tmp_path / 'needle.png')
  with pytest.raises(ValueError, match=r'needle\.png: 20000×10 has an aspect .* 2000:1; the limit is 200:1'):
    images.load(tmp_path / 'needle.png')
  for side, why in ((10_000, 'the limit is 89478485'), (60_000, 'decompression bomb')):
    (tmp_path / 'bomb.png').write_bytes(png_claiming(side))
    with pytest.raises(ValueError, match=rf'bomb\.png.*{why}'), warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      images.load(tmp_path / 'bomb.png')
  with pytest.raises(ValueError, match='no pixels'):
    images.load(np.zeros((0, 5, 3), np.uint8))
  with pytest.raises(ValueError, match='no pixels'):
    images.load(Image.new('RGB', (0, 5)))
  with pytest.raises(ValueError, match='float64'):
    images.load(np.zeros((5, 5, 3)))
  with pytest.raises(ValueError, match='int'):
    images.load(3)


def encoded(image: Image.Image, fmt: str = 'PNG') -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, fmt)
  return buffer.getvalue()


def test_every_way_to_hand_over_an_image_gives_the_same_pixels(tmp_path):
  rgb = noise(24, 16)
  path, data = tmp_path / 'x.png', encoded(rgb)
  path.write_bytes(data)
  uri = 'data:image/png;base64,' + base64.b64encode(data).decode()
  alpha = np.dstack([np.asarray(rgb), np.full((16, 24), 255, np.uint8)])
  with path.open('rb') as file:
    sources = [path, str(path), path.as_uri(), data, bytearray(data), io.BytesIO(data), file, uri, alpha, rgb]
    assert {images.load(source).tobytes() for source in sources} == {rgb.tobytes()}
  grey = np.asarray(rgb)[..., :1]
  assert images.load(grey).tobytes() == images.load(grey[..., 0]).tobytes()


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'PA'])
def test_transparent_pixels_are_white_unless_dropped(mode):
  """Black text on nothing, as screenshots and logos have it, must not become black on black."""
  clear = Image.new('RGBA', (4, 4), (0, 0, 0, 0))
  clear.putpixel((1, 1), (0, 0, 0, 255))
  image = Image.open(io.BytesIO(encoded(clear.quantize() if mode[0] == 'P' else clear.convert(mode))))
  white = images.load(image)
  assert white.getpixel((0, 0)) == (255, 255, 255) and white.getpixel((1, 1)) == (0, 0, 0)
  assert images.load(image, transparency='drop').getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_grey_of_any_depth_keeps_its_range(bits):
  top = 2**bits - 1
  data = encoded(Image.fromarray(np.asarray([[0, top // 2, top]], np.uint16)))
  assert np.asarray(images.load(data))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize(
  'head, name',
  [
    (b'\0\0\0\x1cftypavif', 'AVIF'),
    (b'\0\0\0\x0cjP  \r\n', 'JPEG 2000'),
    (b'\0\0\x01\0\x01\0', 'ICO'),
    (b'%PDF-1.7', 'PDF'),
    (b'\0\0\0\x18ftypheic', 'HEIC'),
  ],
)
def test_formats_that_are_not_accepted_are_named(head, name):
  with pytest.raises(ValueError, match=f'the format {name} is not accepted; expected one of BMP'):
    images.load(head + bytes(64))


@pytest.mark.parametrize(
  'source, word',
  [
    ('https://example.org/a.png', 'not fetched from the web'),
    ('data:image/png,abc', 'base64,'),
    ('data:image/png;base64,@@@@', 'not base64'),
    (io.StringIO('text'), 'binary mode'),
    (np.zeros((4, 4, 2), np.uint8), 'uint8'),
    (b'', 'not a readable image'),
    (None, 'NoneType'),
  ],
)
def test_other_sources_are_refused(source, word):
  with pytest.raises(ValueError, match=word):
    images.load(source)
