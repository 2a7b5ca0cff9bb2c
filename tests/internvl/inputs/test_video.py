"""Which frames of a video are seen, and where frames come from."""

import itertools
import struct
import sys

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl.inputs import video


def test_published_middles():
  assert video.middle(100, 8) == [5, 18, 30, 43, 55, 68, 80, 93]
  assert video.middle(7, 8) == [0, 1, 2, 3, 4, 5, 6, 6]
  assert video.middle(301, 5) == [29, 89, 149, 209, 270]


def test_uniform_rounds_half_to_even():
  # 11 frames in 4 segments of 2.5: offsets round(0), round(2.5) = 2, round(5), round(7.5) = 8.
  assert video.uniform(11, 4) == [1, 3, 6, 9]


@given(st.integers(1, 500), st.integers(1, 70), st.integers(0, 9))
def test_every_rule_gives_n_ascending_indices_in_range(frames, n, seed):
  picks = {
    'uniform': video.uniform(frames, n),
    'middle': video.middle(frames, n),
    'rand': video.rand(frames, n, np.random.default_rng(seed)),
  }
  if n <= frames:
    picks['stepped'] = video.stepped(frames, n)
  for rule, got in picks.items():
    assert len(got) == n and got == sorted(got) and got[0] >= 0 and got[-1] < frames, rule


@given(st.integers(2, 300), st.integers(1, 20), st.integers(0, 9))
def test_random_frames_stay_inside_their_intervals(frames, n, seed):
  got = video.rand(frames, n, np.random.default_rng(seed))
  edges = np.linspace(0, frames, min(n, frames) + 1).astype(int)
  if (np.diff(edges) >= 2).all():
    for i, (a, b) in zip(got, itertools.pairwise(edges)):
      assert a <= i <= b - 2
  else:
    assert len(set(got)) == min(n, frames)


def test_fixed_rate_takes_bin_centres():
  assert video.fixed_rate(100, fps=25, rate=1) == [12, 38, 62, 88]  # 12.5, 37.5, … to even
  assert video.fixed_rate(100, fps=25, rate=1, limit=2) == [12, 38]
  assert video.fixed_rate(5, fps=10, rate=100) == [
    0,
    0,
    0,
    0,
    0,
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    1,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
    4,
    4,
    4,
    4,
    4,
    4,
    4,
    4,
    4,
    4,
  ]


def test_impossible_requests_are_refused():
  for call in (
    lambda: video.uniform(0, 8),
    lambda: video.middle(8, 0),
    lambda: video.stepped(4, 8),
    lambda: video.fixed_rate(10, 0, 1),
    lambda: video.load_frames([], 2),
  ):
    with pytest.raises(ValueError):
      call()


def greys(n):
  return [Image.new('RGB', (16, 12), (16 * k,) * 3) for k in range(n)]


def first_pixels(frames):
  return [f.getpixel((0, 0))[0] for f in frames]


def test_frames_from_lists_folders_and_animations(tmp_path):
  frames = greys(11)
  assert first_pixels(video.load_frames(frames, 4)) == [16, 48, 96, 144]
  (tmp_path / 'clip').mkdir()
  for k, frame in enumerate(frames):  # 10.png comes after 9.png
    frame.save(tmp_path / 'clip' / f'{k}.png')
  (tmp_path / 'clip' / 'notes.txt').write_text('not a frame')
  assert first_pixels(video.load_frames(tmp_path / 'clip', 11, video.middle)) == [16 * k for k in range(11)]
  frames[0].save(tmp_path / 'clip.gif', save_all=True, append_images=frames[1:])
  assert first_pixels(video.load_frames(str(tmp_path / 'clip.gif'), 4)) == [16, 48, 96, 144]


def test_a_container_is_decoded_by_av(tmp_path):
  with av.open(str(tmp_path / 'clip.avi'), 'w') as container:
    stream = container.add_stream('mjpeg', rate=10)
    stream.width, stream.height, stream.pix_fmt = 16, 12, 'yuvj420p'
    for frame in greys(11):
      container.mux(stream.encode(av.VideoFrame.from_image(frame)))
    container.mux(stream.encode())
  got = first_pixels(video.load_frames(tmp_path / 'clip.avi', 4))
  np.testing.assert_allclose(got, [16, 48, 96, 144], atol=4)


def test_missing_library_and_unusable_files_are_named(tmp_path, monkeypatch):
  path = tmp_path / 'broken.mp4'
  path.write_bytes(b'\0\0\0\x18ftypmp42 and then nothing')
  with pytest.raises(ValueError, match=r'broken\.mp4: not a readable video'):
    video.load_frames(path, 4)
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(ModuleNotFoundError, match=r"broken\.mp4.*pip install -e '\.\[video\]'"):
    video.load_frames(path, 4)
  with pytest.raises(FileNotFoundError, match='nowhere'):
    video.load_frames(tmp_path / 'nowhere.mp4', 4)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='empty: holds no image files'):
    video.load_frames(tmp_path / 'empty', 4)
  gif = tmp_path / 'cut.gif'
  noise = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (48, 64), np.uint8)) for k in range(3)]
  noise[0].save(gif, save_all=True, append_images=noise[1:])
  gif.write_bytes(gif.read_bytes()[:-1000])
  with pytest.raises(ValueError, match=r'cut\.gif'):
    video.load_frames(gif, 3, video.middle)


def test_a_phone_held_upright_films_upright_frames(tmp_path):
  """The file stores frames on their side and a matrix: here a quarter turn clockwise, as phones write it."""
  path = tmp_path / 'clip.mp4'
  picture = np.zeros((32, 64, 3), np.uint8)
  picture[:16, :32] = 255  # top left, so top right once turned
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 32, 'yuv420p'
    for _ in range(4):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
    container.mux(stream.encode())
  one = 1 << 16
  upright = struct.pack('>9i', one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
  turned = struct.pack('>9i', 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
  head, track, rest = path.read_bytes().partition(b'tkhd')
  assert upright in rest
  path.write_bytes(head + track + rest.replace(upright, turned, 1))
  (frame,) = video.load_frames(path, 1)
  assert frame.size == (32, 64)
  bright = np.asarray(frame.convert('L')) > 127
  assert bright[4:28, 20:28].all() and not bright[:, :12].any() and not bright[40:].any()
