"""One long speech of the tiny config: step time against the bytes of the cache, and memory of the host.

  python -m bench.perf.vibevoice_long --frames=40500 --out=long.png     # an hour and a half at 7.5 frames a second

A step reads all slots of the cache's bucket, filled or not, so its time should be linear in the bytes of the bucket: a
line is fitted to the buckets' medians and drawn with them. Each point is the CPU time of a step, a mean over a window
of steps; the drift is the slope within the last bucket, over its length. Random weights never end their speech, and
tokens are given, so that every step is a frame.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from core.launch import command
from core.launch.fields import field

AT_ONCE = 16  # frames of one program
WINDOW = 256  # frames of a point


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  frames: int = field(40_500, 'frames to speak', low=4 * WINDOW, high=65_000)
  out: str = field('vibevoice_long.png', 'picture to write')


@dataclasses.dataclass(frozen=True)
class Point:
  """Means over a window: frame at its end, slots of the cache, CPU milliseconds a step, resident MiB of the process."""

  frame: int
  slots: int
  milliseconds: float
  resident: float


def points(frames: int) -> Iterator[Point]:
  """Speaks, and measures."""
  import jax
  import psutil

  from vibevoice import generation, model
  from vibevoice.config import CONFIGS
  from vibevoice.generation import Given
  from vibevoice.inputs.processor import Inputs

  tiny = CONFIGS['tiny']
  language = dataclasses.replace(tiny.language, max_length=65_536)
  config = dataclasses.replace(tiny, language=language)
  params = model.init(jax.random.key(0), config)
  prompt = np.asarray([*range(64), config.start], np.int32)
  given = Given(tokens=np.full((1, 1), config.slot, np.int32))  # beyond the end of the list the last token counts
  inputs = [Inputs(tokens=prompt, slots=np.zeros(len(prompt), bool))]
  made = generation.begin(params, config, inputs, limit=frames, steps=2, given=given)
  process = psutil.Process()
  began = time.process_time()
  for count, _ in enumerate(made.frames(at_once=AT_ONCE), start=1):
    if count % WINDOW:
      continue
    seconds = time.process_time() - began
    yield Point(
      frame=count,
      slots=made.state.cache.capacity,
      milliseconds=1e3 * seconds / WINDOW,
      resident=process.memory_info().rss / 2**20,
    )
    began = time.process_time()


def settled(measured: Sequence[Point]) -> list[Point]:
  """Without the windows in which programs were compiled: the first, and those where the cache grows or is about to."""
  neighbours = zip(measured, measured[1:], measured[2:])
  kept = []
  for before, point, after in neighbours:
    is_inside = before.slots == point.slots == after.slots
    if is_inside and not _compiles(point):
      kept.append(point)
  return kept


def _compiles(point: Point) -> bool:
  """Whether the program of the next cache is compiled near this point: at three quarters of the present one."""
  distance = point.frame - 3 * point.slots / 4
  return abs(distance) <= 2 * WINDOW


def fitted(measured: Sequence[Point]) -> tuple[dict[int, float], np.ndarray]:
  """(median milliseconds by slots, line [slope, intercept] through them over slots)."""
  times: dict[int, list[float]] = {}
  for point in sorted(measured, key=lambda point: point.slots):
    times.setdefault(point.slots, []).append(point.milliseconds)
  medians = {slots: float(np.median(values)) for slots, values in times.items()}
  degree = min(1, len(medians) - 1)
  line = np.polyfit(list(medians), list(medians.values()), degree)
  return medians, line


def drift(measured: Sequence[Point]) -> float:
  """Relative change of the step time over the last bucket, by a line through its points."""
  last = _last_bucket(measured)
  frames = np.array([point.frame for point in last], float)
  times = np.array([point.milliseconds for point in last])
  slope, _ = np.polyfit(frames - frames.mean(), times, 1)
  return float(slope * np.ptp(frames) / times.mean())


def _last_bucket(measured: Sequence[Point]) -> list[Point]:
  """The points at the largest cache."""
  slots = measured[-1].slots
  return [point for point in measured if point.slots == slots]


def draw(path: str, measured: Sequence[Point], steady: Sequence[Point], line: np.ndarray) -> None:
  """Step time with the line of the bucket's bytes, and resident memory, over frames.

  Windows in which a program was compiled are gray; the highest of them leave the picture.
  """
  import matplotlib.pyplot as plt

  figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 6), layout='constrained')
  compiling = [point for point in measured if point not in steady]
  predicted = np.polyval(line, [point.slots for point in measured])
  frames = [point.frame for point in measured]
  _dots(above, compiling, color='silver', label='while a program compiles')
  _dots(above, steady, color='C0', label='steps alone')
  above.plot(frames, predicted, color='C1', label='line through the bytes of the bucket')
  above.set_ylim(0, 2 * predicted.max())
  above.set_ylabel('CPU ms a step')
  above.legend(loc='upper left')
  below.plot(frames, [point.resident for point in measured])
  below.set_ylim(bottom=0)
  below.set_ylabel('resident MiB')
  below.set_xlabel('frame')
  figure.savefig(path, dpi=100)


def _dots(axis: Any, points: Sequence[Point], **style: str) -> None:
  frames = [point.frame for point in points]
  times = [point.milliseconds for point in points]
  axis.plot(frames, times, '.', **style)


def work(options: Options) -> None:
  """Speaks, prints the figures and draws them."""
  measured = list(points(options.frames))
  steady = settled(measured)
  medians, line = fitted(steady)
  for slots, median in medians.items():
    predicted = np.polyval(line, slots)
    print(f'{slots:6} slots: {median:.2f} ms a step, line {predicted:.2f}')
  print(f'drift within the last bucket: {drift(steady):+.1%}')
  last = [point.resident for point in _last_bucket(measured)]
  print(f'resident memory in the last bucket: {last[0]:.0f} MiB at first, {last[-1]:.0f} MiB at the end')
  draw(options.out, measured, steady, line)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
