"""The vision side of a server: tiles in, features of the tokens that the language model reads out.

n tiles   S side of a tile   M image tokens of a tile   D width of the language model
"""

import asyncio
import collections
import concurrent.futures
import queue
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from core import decoder
from core.engine.features import FeatureStore
from core.serving.stepping import Failed
from internvl import model
from internvl.features import BATCH, Images, media_of, named
from internvl.flash import routing
from internvl.flash.routing import Compression, Routing
from internvl.inputs.processor import Inputs


class Seen(NamedTuple):
  """A prompt with the image tokens that are left, how its tiles were routed (if it has any), and its media."""

  inputs: Inputs
  routing: Routing | None
  media: Sequence[Any]


class Vision(Protocol):
  """Where tiles are encoded."""

  async def see(self, x: Inputs, compression: Compression | None) -> Seen:
    """A prompt that was laid out in full. Raises ValueError for a compression that the model cannot do."""


class Coupled:
  """No service: tiles are routed on request, and encoded by the engine's thread when the request is submitted."""

  def __init__(self, images: Images):
    self._images = images

  async def see(self, x: Inputs, compression: Compression | None) -> Seen:
    """As in `Vision`."""
    shortened, routed = await asyncio.to_thread(self._images.route, x, compression)
    return Seen(shortened, routed, media_of(shortened))


class Encoded(NamedTuple):
  """What the service makes of a request's tiles: their routing, and features [M, D] of each."""

  routing: Routing
  features: list[np.ndarray]


class _Job(NamedTuple):
  pixels: np.ndarray  # float32 [n, S, S, 3]
  mode: Compression
  done: concurrent.futures.Future


class Encoder:
  """The vision service: a thread that encodes tiles of several requests together, stateless and in order.

  Use it as a context. A round takes the requests that wait until they have BATCH tiles. counts: rounds, requests and
  tiles so far.
  """

  def __init__(self, images: Images, config: model.Config):
    self._images = images
    self._config = config
    self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    self.counts: collections.Counter[str] = collections.Counter()
    self._thread = threading.Thread(target=self._run, name='vision', daemon=True)

  def __enter__(self) -> 'Encoder':
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._jobs.put(None)
    self._thread.join()

  def submit(self, pixels: np.ndarray, compression: Compression | None) -> concurrent.futures.Future:
    """A future of `Encoded` for tiles float32 [n, S, S, 3].

    Raises ValueError for tiles of another size and for a compression that the model cannot do.
    """
    side = self._config.vision.image_size
    if pixels.shape[1:] != (side, side, 3):
      raise ValueError(f'tiles of {pixels.shape}; expected (n, {side}, {side}, 3)')
    done: concurrent.futures.Future = concurrent.futures.Future()
    self._jobs.put(_Job(pixels, routing.resolve(self._config, compression), done))
    return done

  def _run(self) -> None:
    while jobs := self._waiting():
      try:
        encoded = self._together(jobs)
      except Exception as error:  # of the device; each request hears it, and the next round may succeed
        for job in jobs:
          job.done.set_exception(Failed(f'the vision service: {type(error).__name__}: {error}'))
        continue
      for job, result in zip(jobs, encoded):
        job.done.set_result(result)

  def _waiting(self) -> list[_Job]:
    """The requests of the next round; none when the service ends. Those whose client left are dropped."""
    jobs: list[_Job] = []
    tiles = 0
    while not jobs or tiles < BATCH:
      try:
        job = self._jobs.get(block=not jobs)
      except queue.Empty:
        break
      if job is None:
        self._jobs.put(None)  # for the next call
        break
      if job.done.set_running_or_notify_cancel():
        jobs.append(job)
        tiles += len(job.pixels)
    return jobs

  def _together(self, jobs: Sequence[_Job]) -> list[Encoded]:
    scores = iter(self._scores([job for job in jobs if routing.needs_scores(job.mode)]))
    routings = []
    for job in jobs:
      found = None
      if routing.needs_scores(job.mode):
        found = next(scores)
      routings.append(routing.decide(self._config, found, len(job.pixels), job.mode))
    tiles = [tile for job in jobs for tile in job.pixels]
    counts = np.concatenate([tile_tokens(routed) for routed in routings]).tolist()
    features = iter(self._images.features(tiles, counts) if tiles else [])
    self.counts.update(rounds=1, requests=len(jobs), tiles=len(tiles))
    return [Encoded(routed, [next(features) for _ in job.pixels]) for job, routed in zip(jobs, routings)]

  def _scores(self, jobs: Sequence[_Job]) -> list[np.ndarray]:
    """The router's scores [n] of each request's tiles."""
    if not jobs:
      return []
    found = self._images.score(np.concatenate([job.pixels for job in jobs]))
    ends = np.cumsum([len(job.pixels) for job in jobs])
    return np.split(found, ends[:-1])


def tile_tokens(routed: Routing) -> np.ndarray:
  """Image tokens of each tile, int32 [n]."""
  return np.where(routed.compressed, routed.compact_tokens, routed.tokens).astype(np.int32)


class Separate:
  """The service in a thread of this process, on a mesh of its own."""

  def __init__(self, encoder: Encoder, image_id: int):
    self._encoder = encoder
    self._image_id = image_id

  async def see(self, x: Inputs, compression: Compression | None) -> Seen:
    """As in `Vision`."""
    encoded = await asyncio.wrap_future(self._encoder.submit(x.pixels, compression))
    return seen(x, encoded, self._image_id)


def seen(x: Inputs, encoded: Encoded, image_id: int) -> Seen:
  """A prompt with the features of its tiles."""
  return Seen(routing.shorten(x, encoded.routing, image_id), encoded.routing, encoded.features)


class Precomputed:
  """A `core.engine.features.Features` source of tiles that a vision service has encoded: media are arrays [M, D]."""

  def __init__(self, config: model.Config, spare: int = 256):
    self._config = config
    self._store = FeatureStore(lambda payloads, counts: [], spare)

  def name(self, prompt: Sequence[int], media: Sequence[np.ndarray]) -> np.ndarray:
    """As in `Features`."""
    width = self._config.language.width
    for item in media:
      if item.ndim != 2 or item.shape[1] != width:
        raise ValueError(f'a tile of {item.shape}; expected features (tokens, {width})')
    return named(prompt, self._config.image_token, [(item, len(item)) for item in media], self._store)

  def share(self, names: np.ndarray) -> None:
    """As in `Features`."""
    self._store.share(names)

  def release(self, names: np.ndarray) -> None:
    """As in `Features`."""
    self._store.release(names)

  def encode(self, names: np.ndarray) -> None:
    """Nothing: the service has."""

  def embeddings(self, names: np.ndarray) -> np.ndarray:
    """As in `Features`."""
    return np.stack(self._store.embeddings(names))

  def update(self, weights: model.Params) -> decoder.Params:
    """The language model's weights; features in use stay those of the service's weights."""
    return weights.language

  def warm(self) -> None:
    """Nothing to compile."""
