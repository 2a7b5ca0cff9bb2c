"""Videos as lists of frames, and the rules that pick which frames a model sees.

Each frame is one tile, without tiling or thumbnail. The pickers return frame indices, ascending:
`uniform` is the original inference rule, `middle`, `rand` and `fixed_rate` the original training rules, and
`stepped` the rule of `transformers`.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageSequence

from internvl.inputs import images
from internvl.inputs.images import FORMATS, Transparency, check_size, decoding, to_rgb


def uniform(frames: int, n: int) -> list[int]:
  """The middles of n equal segments of the range 0..frames−1 (OpenGVLab/InternVL, `get_index`).

  round() is Python's, to even at halves. For short clips indices repeat.
  """
  _check(frames, n)
  last = frames - 1
  step = last / n
  half = step / 2
  return [int(half + round(step * k)) for k in range(n)]


def middle(frames: int, n: int) -> list[int]:
  """The floor midpoint of each of n intervals with whole-number edges; the last repeats if frames < n."""
  _check(frames, n)
  middles = [(first + last) // 2 for first, last in _intervals(frames, n)]
  return _pad(middles, n)


def rand(frames: int, n: int, rng: np.random.Generator) -> list[int]:
  """A random frame of each interval of `middle`, its last frame excluded.

  If an interval has no other frame, a sorted random subset of all frames instead, as published.
  """
  _check(frames, n)
  intervals = _intervals(frames, n)
  if all(first < last for first, last in intervals):
    chosen = [int(rng.integers(first, last)) for first, last in intervals]
  else:
    subset = rng.permutation(frames)[: len(intervals)]
    chosen = sorted(subset.tolist())
  return _pad(chosen, n)


def fixed_rate(frames: int, fps: float, rate: float, limit: int | None = None) -> list[int]:
  """The frames at the centres of bins of 1/rate seconds, of a clip of `fps`; at most the first `limit`."""
  _check(frames, limit or 1)
  if not (fps > 0 and rate > 0):
    raise ValueError(f'frame rates must be positive: the clip has {fps}, sampled at {rate}')
  bins = np.arange(math.ceil(frames / fps * rate))
  centres = (bins + 0.5) / rate
  nearest = np.around(centres * fps).astype(int)
  inside = nearest[nearest < frames]
  return inside[:limit].tolist()


def stepped(frames: int, n: int) -> list[int]:
  """From half a step on, every frames/n-th frame, truncated (`transformers`, InternVLVideoProcessor)."""
  _check(frames, n)
  if n > frames:
    raise ValueError(f'{n} frames asked of a clip of {frames}')
  step = frames / n
  # Through float32, as torch does it: it decides where a product falls on a whole number.
  places = step / 2 + step * np.arange(n)
  return places.astype(np.float32).astype(int).tolist()


def _check(frames: int, n: int) -> None:
  if frames < 1 or n < 1:
    raise ValueError(f'cannot pick {n} frames of a clip of {frames}: both must be at least 1')


def _intervals(frames: int, n: int) -> list[tuple[int, int]]:
  """(first frame, last frame) of each interval."""
  edges = np.linspace(0, frames, min(n, frames) + 1)
  whole = edges.astype(int).tolist()
  return [(first, after - 1) for first, after in itertools.pairwise(whole)]


def _pad(indices: list[int], n: int) -> list[int]:
  return indices + indices[-1:] * (n - len(indices))


def load_frames(source, n: int, pick=uniform, *, transparency: Transparency = 'white') -> list[Image.Image]:
  """n RGB frames of a video.

  Args:
    source: a list of images (anything `images.load` takes), a folder of image files (ordered by the numbers in
      their names), an animated image that Pillow reads (GIF, WebP, APNG, multi-page TIFF), or a container
      format, which needs the `av` package (`pip install -e '.[video]'`).
    n: how many frames.
    pick: (frames, n) -> indices, one of the rules above.
    transparency: as of `images.load`.

  Raises:
    FileNotFoundError, ValueError: as `images.load`; also for an empty folder and for files without frames.
    ImportError: a container format, and `av` is not installed.
  """
  if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
    if not source:
      raise ValueError('a video needs at least one frame, got an empty list')
    return _loaded(source, pick(len(source), n), transparency)
  name = os.fspath(source)
  if os.path.isdir(name):
    files = _image_files(name)
    return _loaded(files, pick(len(files), n), transparency)
  if not os.path.isfile(name):
    raise FileNotFoundError(f'{name}: no such video file or folder of frames')
  return _animation(name, n, pick, transparency) or _container(name, n, pick)


def _loaded(frames: Sequence, chosen: Sequence[int], transparency: Transparency) -> list[Image.Image]:
  return [images.load(frames[i], transparency=transparency) for i in chosen]


def _image_files(folder: str) -> list[str]:
  extensions = Image.registered_extensions()
  known = {suffix for suffix, kind in extensions.items() if kind in FORMATS}
  files = []
  for name in os.listdir(folder):
    _, suffix = os.path.splitext(name)
    if suffix.lower() in known:
      files.append(name)
  if not files:
    raise ValueError(f'{folder}: holds no image files to use as video frames')
  ordered = sorted(files, key=_by_numbers)
  return [os.path.join(folder, name) for name in ordered]


def _by_numbers(name: str) -> list[int | str]:
  """A key that sorts numbers within names by value."""
  parts = re.split(r'(\d+)', name)
  return [int(part) if part.isdigit() else part for part in parts]


def _animation(name: str, n: int, pick, transparency: Transparency) -> list[Image.Image] | None:
  """Frames through Pillow, or None where the file is not one of its formats."""
  try:
    image = Image.open(name, formats=FORMATS)
  except Image.UnidentifiedImageError:
    return None
  with decoding(name), image:
    check_size(*image.size, name)
    wanted = pick(getattr(image, 'n_frames', 1), n)
    # Frames of an animation build on one another, so they are walked in order and copied out.
    walk = enumerate(ImageSequence.Iterator(image))
    kept = {i: to_rgb(frame, name, transparency) for i, frame in walk if i in wanted}
    return [kept[i] for i in wanted]


def _container(name: str, n: int, pick) -> list[Image.Image]:
  try:
    import av
  except ImportError as error:
    message = f"{name}: reading this video format needs the av package: pip install -e '.[video]'"
    raise ModuleNotFoundError(message, name='av') from error
  try:
    with av.open(name) as container:
      total = sum(1 for _ in container.decode(video=0))  # headers may lie about the count, so count
      if not total:
        raise ValueError('it has no frames')
    wanted = pick(total, n)
    with av.open(name) as container:
      frames = enumerate(container.decode(video=0))
      kept = {i: _turned(frame) for i, frame in frames if i in wanted}
  except (av.FFmpegError, IndexError, ValueError) as error:
    raise ValueError(f'{name}: not a readable video: {error}') from error
  return [to_rgb(kept[i], name) for i in wanted]


def _turned(frame) -> Image.Image:
  """A frame as its player shows it: a phone held upright stores its frames on their side, and an angle."""
  image = frame.to_image()
  return image.rotate(frame.rotation, expand=True)
