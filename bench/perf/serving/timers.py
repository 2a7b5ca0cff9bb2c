"""Decoupled vision and language services against a coupled one, with timers in place of compute.

What is measured is the server's own scheduling: the engine, its thread, the vision service and their queues are real,
and the device sleeps for fixed times, so the figures depend on the machine only by its host time. Each request has one
tile that takes `vision` seconds, and a response that takes `language` seconds of the only slot. Throughput is that of a
closed loop with `in_flight` requests; times to the first token are those of Poisson arrivals at `load` of what the
coupled server can do (both servers get the same arrivals).
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.perf.engine_host import FakeDevice
from bench.perf.serving.options import Timers
from core.serving.chat.options import SIZE

TOKENS = 8  # of a response
SEGMENT = SIZE.segment


class TimedDevice(FakeDevice):
  """A device whose segments take `pause` seconds.

  host: processor seconds of the engine's thread between segments so far. segments: how many.
  """

  def __init__(self, vocab: int, pause: float):
    super().__init__(vocab, SEGMENT)
    self.pause = pause
    self.host = 0.0
    self.segments = 0
    self._left = None  # processor time of the thread when it left here

  def decode(self, plan, slots):
    """As in `Programs`."""
    if self._left is not None:
      self.host += time.thread_time() - self._left
      self.segments += 1
    if slots.limit.any():
      time.sleep(self.pause)
    out = super().decode(plan, slots)
    self._left = time.thread_time() if slots.limit.any() else None  # what compiles is not counted
    return out


class TimedImages:
  """A substitute for `internvl.features.Images`: tiles take `seconds` each, one after the other."""

  def __init__(self, config: Any, seconds: float):
    self._config = config
    self._seconds = seconds

  def features(self, tiles: Sequence[np.ndarray], counts: Sequence[int]) -> list[np.ndarray]:
    """Features of each tile, in which only its content matters."""
    time.sleep(self._seconds * len(tiles))
    width = self._config.language.width
    return [np.full((count, width), tile.mean(), np.float32) for tile, count in zip(tiles, counts)]


class _Coupled:
  """Tiles are encoded when a request is submitted, by the engine's thread."""

  def __init__(self, config: Any, images: TimedImages):
    from internvl.serving.vision import Precomputed

    class Source(Precomputed):
      def name(self, prompt, media):
        tiles = [tile for tile in media if tile.ndim == 3]
        known = images.features(tiles, [config.tokens_per_tile] * len(tiles))
        return super().name(prompt, known)

    self.source = Source(config)

  async def see(self, x: Any, compression: Any) -> Any:
    """As in `internvl.serving.vision.Vision`."""
    from internvl.serving.vision import Seen

    return Seen(x, None, list(x.pixels))


@contextlib.contextmanager
def served(options: Timers, kind: str) -> Iterator[tuple]:
  """(where tiles are encoded, the worker, the device) of a server, 'coupled' or 'decoupled'."""
  from core.engine import Engine
  from core.serving.chat.worker import Worker
  from internvl.serving.vision import Encoder, Precomputed, Separate

  config = model()
  images = TimedImages(config, options.vision)
  pause = options.language * SEGMENT / TOKENS
  with contextlib.ExitStack() as stack:
    if kind == 'coupled':
      place = _Coupled(config, images)
      source = place.source
    else:
      place = Separate(stack.enter_context(Encoder(images, config)), config.image_token)
      source = Precomputed(config)
    device = TimedDevice(config.language.vocab, pause)
    sizes = {'slots': 1, 'pages': 4000, 'page_size': 16, 'segment': SEGMENT}
    engine = Engine(None, config.language, **sizes, programs=device, features=source)
    yield place, stack.enter_context(Worker(engine)), device


def model() -> Any:
  """A tiny configuration; its weights are never made."""
  import internvl

  return internvl.CONFIGS['tiny']


def prompts(count: int) -> list[Any]:
  """Requests with one tile each, all different."""
  from internvl.inputs.processor import Inputs

  config = model()
  tokens = np.array([1, *[config.image_token] * config.tokens_per_tile, 2], np.int32)
  side = config.vision.image_size
  fixed = {
    'tokens': tokens,
    'mask': np.zeros(len(tokens), bool),
    'tiles': np.ones(1, np.int32),
    'tile_tokens': np.full(1, config.tokens_per_tile, np.int32),
    'grids': np.ones((1, 2), np.int32),
  }
  return [Inputs(pixels=np.full((1, side, side, 3), number, np.float32), **fixed) for number in range(count)]


async def answer(place: Any, worker: Any, x: Any, times: dict[str, list[float]]) -> None:
  """One request; appends its seconds to the first token, and when it ended."""
  from core.engine import Request

  began = time.monotonic()
  found = await place.see(x, 'off')
  request = Request(found.inputs.tokens.tolist(), TOKENS, media=found.media)
  is_first = True
  async for _ in worker.generate([request], seconds=600.0):
    if is_first:
      times['first'].append(time.monotonic() - began)
    is_first = False
  times['ended'].append(time.monotonic())


async def closed_loop(options: Timers, place: Any, worker: Any) -> float:
  """Requests a second of the middle of the run, without its beginning and end."""
  times: dict[str, list[float]] = {'first': [], 'ended': []}
  left = iter(prompts(options.requests))

  async def client():
    for x in left:
      await answer(place, worker, x, times)

  await asyncio.gather(*(client() for _ in range(options.in_flight)))
  ended = sorted(times['ended'])
  first = options.in_flight
  last = options.requests - options.in_flight
  return (last - first) / (ended[last] - ended[first])


async def open_loop(options: Timers, place: Any, worker: Any) -> list[float]:
  """Seconds to the first token of each request, from its arrival."""
  rate = options.load / (options.vision + options.language)
  gaps = np.random.default_rng(options.seed).exponential(1 / rate, options.requests)
  times: dict[str, list[float]] = {'first': [], 'ended': []}
  tasks = []
  for gap, x in zip(gaps, prompts(options.requests)):
    await asyncio.sleep(gap)
    tasks.append(asyncio.ensure_future(answer(place, worker, x, times)))
  await asyncio.gather(*tasks)
  return times['first']


@dataclasses.dataclass(frozen=True)
class Figures:
  """Requests a second in the closed loop; the median and the 99th percentile of seconds to the first token.

  host: processor seconds of the engine's thread a request.
  """

  throughput: float
  host: float
  median: float
  p99: float


def measure(options: Timers, kind: str) -> Figures:
  """What one kind of server does."""
  with served(options, kind) as (place, worker, device):
    throughput = asyncio.run(closed_loop(options, place, worker))
    host = device.host / device.segments * TOKENS / SEGMENT
    waits = asyncio.run(open_loop(options, place, worker))
  return Figures(throughput, host, *np.percentile(waits, [50, 99]).tolist())


def run(options: Timers) -> None:
  """Measures both kinds of server and prints them."""
  stages = options.vision, options.language
  ideal = {'coupled': 1 / sum(stages), 'decoupled': 1 / max(stages)}
  print(f'vision {stages[0] * 1e3:.0f} ms, language {stages[1] * 1e3:.0f} ms, {options.requests} requests a run')
  found = {kind: measure(options, kind) for kind in ideal}
  for kind, f in found.items():
    share = f.throughput / ideal[kind]
    first = f'median {f.median * 1e3:.0f} ms, P99 {f.p99 * 1e3:.0f} ms'
    print(f'{kind}: {f.throughput:.2f} requests/s, {share:.3f} of the {ideal[kind]:.2f} that the stages allow')
    print(f'  first token at load {options.load:g}: {first}')
    idle = 1 / (1 / ideal[kind] + f.host) / ideal[kind]
    print(f'  the thread of the engine takes {f.host * 1e3:.1f} ms of a core a request, which alone leaves {idle:.3f}')
  coupled = found['coupled']
  decoupled = found['decoupled']
  print(
    f'decoupled: {decoupled.throughput / coupled.throughput:.2f}x the throughput, '
    f'P99 of the first token {coupled.p99 / decoupled.p99:.2f}x lower'
  )
