"""Image tiles for the engine: a `core.engine.features.Features` source over the vision tower.

n tiles   S pixels a side   P patches   M image tokens of a tile   D width of the language model
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from core import decoder, mesh
from core.engine import layout
from core.engine.features import FeatureStore, digest
from core.mesh import constrain
from core.padding import pad
from internvl import model
from internvl.flash import router, routing
from internvl.flash.routing import Compression, Routing
from internvl.inputs.processor import Inputs

BATCH = 8  # tiles encoded together; a single one goes alone
ROUTED = 64  # routed tiles whose patch features wait for a request


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Tiles of a request with the image tokens that each has in the prompt.

  pixels: float32 [n, S, S, 3]. tile_tokens: int [n], `tokens_per_tile` or `compact_tokens` of the model.
  """

  pixels: np.ndarray
  tile_tokens: np.ndarray


def media_of(x: Any) -> list[Tiles]:
  """The media of a request with the prompt of `x`, which has tokens, pixels and tile_tokens; none without tiles."""
  if len(x.pixels):
    return [Tiles(x.pixels, x.tile_tokens)]
  return []


def named(
  prompt: Sequence[int], image_token: int, pieces: Sequence[tuple[np.ndarray, int]], store: FeatureStore
) -> np.ndarray:
  """The prompt, int64, with each image token named after its content in `store`, which has one user more.

  pieces: (pixels [S, S, 3] or features [M, D], image tokens M) of each tile. Raises ValueError if tiles and image
  tokens do not match, or the prompt ends in an image.
  """
  names = np.array(prompt, np.int64)
  at = np.flatnonzero(names == image_token)
  total = sum(count for _, count in pieces)
  if len(at) != total:
    raise ValueError(
      f'a prompt with {len(at)} image tokens and {len(pieces)} tiles of {total} tokens; expected as many'
    )
  if at.size and at[-1] == len(names) - 1:
    raise ValueError('the last token of a prompt must be text, not an image')
  stop = 0
  for tile, count in pieces:
    start = stop
    stop = stop + count
    names[at[start:stop]] = store.use(tile, count, precomputed=tile.ndim == 2)
  return names


@functools.partial(jax.jit, static_argnames=('config', 'compressed'))
def _encode(params, config, pixels, compressed):
  features = model.project(params, config, model.patches(params, config, pixels)[0], compressed=compressed)
  return constrain(features, (None, None, None))  # every process reads them


@functools.partial(jax.jit, static_argnames='config')
def _route(params, config, pixels):
  patches = model.patches(params, config, pixels)[0]
  scores = router.scores(params.router, patches)
  return constrain(patches, (None, None, None)), constrain(scores, (None,))


@functools.partial(jax.jit, static_argnames=('config', 'compressed'))
def _project(params, config, patches, compressed):
  features = model.project(params, config, patches, compressed=compressed)
  return constrain(features, (None, None, None))


class Images:
  """Tiles by content, each distinct one encoded once.

  params: InternVL's; place: the engine's mesh, by default that of the weights. A request's media are images of tiles
  [n, S, S, 3], none of them compressed; `Tiles`, some of which may be; or features computed before, [M, D] of one tile
  with any number M of tokens, in the order of the prompt's image tokens. spare: tiles without users that stay encoded.
  """

  def __init__(
    self,
    params: model.Params,
    config: model.Config,
    place: mesh.Mesh | mesh.Share | None = None,
    spare: int = 256,
  ):
    place = place or mesh.of(params)
    self._place = place if isinstance(place, mesh.Share) else mesh.Share(place, place)
    self._config = config
    self._params = self._lay(params)
    self._store = FeatureStore(self.features, spare)
    self._routed: collections.OrderedDict[bytes, np.ndarray] = collections.OrderedDict()  # digest -> patches

  @property
  def encoded(self) -> int:
    """Tiles encoded so far."""
    return self._store.encoded

  @property
  def users(self) -> int:
    """Uses of tiles not released yet."""
    return self._store.users

  def name(self, prompt: Sequence[int], media: Sequence[np.ndarray]) -> np.ndarray:
    """The prompt with each image token named after its content; its tiles have one more user.

    Raises ValueError if tiles and image tokens do not match, or the prompt ends in an image.
    """
    return named(prompt, self._config.image_token, list(self._pieces(media)), self._store)

  def route(self, x: Inputs, compression: Compression | None = None) -> tuple[Inputs, Routing]:
    """The prompt `x`, laid out in full, with the image tokens that the router leaves; and what it decided.

    compression: as of `internvl.chat`. Raises ValueError for one that the model cannot do.
    """
    mode = routing.resolve(self._config, compression)
    scores = None
    if routing.needs_scores(mode):
      scores = self.score(x.pixels)
    decided = routing.decide(self._config, scores, len(x.pixels), mode)
    return routing.shorten(x, decided, self._config.image_token), decided

  def share(self, names: np.ndarray) -> None:
    """One more user of the tiles in a named prompt."""
    self._store.share(names)

  def release(self, names: np.ndarray) -> None:
    """One user less of the tiles in a named prompt."""
    self._store.release(names)

  def encode(self, names: np.ndarray) -> None:
    """Encodes the tiles in a named prompt that are not encoded yet."""
    self._store.encode(names)

  def embeddings(self, names: np.ndarray) -> np.ndarray:
    """Embeddings [n, D] of names of image tokens [n]."""
    return np.stack(self._store.embeddings(names))

  def update(self, weights: model.Params) -> decoder.Params:
    """New weights; tiles in use are encoded again. Returns the language model's."""
    with self._store.encoder:  # no thread encodes without weights, or with the old ones after this
      self._params = None  # frees the old weights first
      self._params = self._lay(weights)
      self._routed.clear()
      self._store.recompute()
    return weights.language

  def warm(self) -> None:
    """Compiles what it runs."""
    size = self._config.vision.image_size
    for batch in (1, BATCH):
      pixels = np.zeros((batch, size, size, 3), np.float32)
      self._run(_encode, pixels, False)
      if self._config.flash:
        self._run(_encode, pixels, True)
        patches, _ = self._run(_route, pixels)
        for compressed in (False, True):
          self._run(_project, patches, compressed)

  def _lay(self, params: model.Params) -> model.Params:
    """All weights but the language model's, on the engine's devices."""
    spec = model.spec(self._config)
    return layout.put(params.replace(language=None), spec.replace(language=None), self._place)

  def _pieces(self, media: Sequence[Any]) -> Iterator[tuple[np.ndarray, int]]:
    """(pixels [S, S, 3] or features [M, D], image tokens) of each tile."""
    for item in media:
      if isinstance(item, Tiles):
        yield from self._counted(item)
        continue
      image = np.asarray(item)
      if image.ndim == 2 and image.shape[1] == self._config.language.width:
        yield image, len(image)
      else:
        yield from ((tile, self._config.tokens_per_tile) for tile in self._pixels(image))

  def _counted(self, item: Tiles) -> Iterator[tuple[np.ndarray, int]]:
    allowed = [self._config.tokens_per_tile]
    if self._config.flash:
      allowed.append(self._config.compact_tokens)
    counts = np.asarray(item.tile_tokens)
    if counts.shape != (len(item.pixels),) or not np.isin(counts, allowed).all():
      raise ValueError(
        f'tile_tokens={counts.tolist()} of {len(item.pixels)} tiles; expected some of {allowed} for each'
      )
    yield from zip(self._pixels(np.asarray(item.pixels)), counts.tolist())

  def _pixels(self, image: np.ndarray) -> np.ndarray:
    """The tiles float32 [n, S, S, 3] of an image."""
    size = self._config.vision.image_size
    width = self._config.language.width
    if image.ndim != 4 or image.shape[1:] != (size, size, 3):
      raise ValueError(f'an image of {image.shape}; expected tiles (n, {size}, {size}, 3) or features (m, {width})')
    return image.astype(np.float32)

  def score(self, pixels: np.ndarray) -> np.ndarray:
    """The router's scores float32 [n] of tiles [n, S, S, 3], whose patch features wait for `features`."""
    tiles = list(self._pixels(pixels))
    scores = [np.zeros(0, np.float32)]
    with self._store.encoder:
      for some in _batches(tiles):
        patches, found = self._run(_route, _stacked(some))
        self._routed.update(zip(map(digest, some), patches))
        scores.append(found[: len(some)])
      while len(self._routed) > ROUTED:
        self._routed.popitem(last=False)
    return np.concatenate(scores)

  def features(self, tiles: list[np.ndarray], counts: list[int]) -> list[np.ndarray]:
    """Features [M, D] of each tile of pixels, for its number M of image tokens."""
    out: list[Any] = [None] * len(tiles)
    for count in sorted(set(counts)):
      chosen = [i for i, other in enumerate(counts) if other == count]
      compressed = count != self._config.tokens_per_tile
      for some in _batches(chosen):
        features = self._encoded([tiles[i] for i in some], compressed)
        for i, own in zip(some, features):
          out[i] = own
    return out

  def _encoded(self, tiles: list[np.ndarray], compressed: bool) -> np.ndarray:
    """Features [BATCH or 1, M, D] of at most BATCH tiles of pixels, from what routing computed where it knows all."""
    known: list[Any] = [None]
    if self._routed:
      known = [self._routed.pop(digest(tile), None) for tile in tiles]
    if all(patches is not None for patches in known):
      return self._run(_project, _stacked(known), compressed)
    return self._run(_encode, _stacked(tiles), compressed)

  def _run(self, program: Callable, *arrays: Any) -> Any:
    with jax.set_mesh(self._place.mesh):
      return jax.tree.map(np.asarray, program(self._params, self._config, *arrays))


def _batches(items: list) -> Iterator[list]:
  """At most BATCH items at a time."""
  for start in range(0, len(items), BATCH):
    yield items[start : start + BATCH]


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
  """Arrays stacked and padded to BATCH, or to 1 if there is one, so that few programs are compiled."""
  return pad(np.stack(arrays), BATCH if len(arrays) > 1 else 1)
