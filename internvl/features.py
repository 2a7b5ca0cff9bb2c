"""Image tiles for the engine: a `core.engine.features.Features` source over the vision tower.

n tiles   S pixels a side   M image tokens of a tile   D width of the language model
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from core import decoder, mesh
from core.engine import layout
from core.engine.features import FeatureStore
from core.mesh import constrain
from core.padding import pad
from internvl import model

BATCH = 8  # tiles encoded together; a single one goes alone


@functools.partial(jax.jit, static_argnames='config')
def _encode(params, config, pixels):
  features = model.encode(params, config, pixels)[0]
  return constrain(features, (None, None, None))  # every process reads them


class Images:
  """Tiles by content, each distinct one encoded once.

  params: InternVL's; place: the engine's mesh, by default that of the weights. A request's media are images of tiles
  [n, S, S, 3], or features computed before, [M, D] of one tile with any number M of tokens, in the order of the
  prompt's image tokens. spare: tiles without users that stay encoded.
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
    self._store = FeatureStore(self._features, spare)

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
    names = np.array(prompt, np.int64)
    at = np.flatnonzero(names == self._config.image_token)
    tiles = list(self._tiles(media))
    counts = [self._count(tile) for tile in tiles]
    if len(at) != sum(counts):
      raise ValueError(
        f'a prompt with {len(at)} image tokens and {len(tiles)} tiles of {sum(counts)} tokens; expected as many'
      )
    if at.size and at[-1] == len(names) - 1:
      raise ValueError('the last token of a prompt must be text, not an image')
    stop = 0
    for tile, count in zip(tiles, counts):
      start, stop = stop, stop + count
      names[at[start:stop]] = self._store.use(tile, count, precomputed=tile.ndim == 2)
    return names

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
    self._params = None  # frees the old weights first
    self._params = self._lay(weights)
    self._store.recompute()
    return weights.language

  def warm(self) -> None:
    """Compiles what it runs."""
    size = self._config.vision.image_size
    for batch in (1, BATCH):
      self._run(np.zeros((batch, size, size, 3), np.float32))

  def _lay(self, params: model.Params) -> model.Params:
    """All weights but the language model's, on the engine's devices."""
    spec = model.spec(self._config)
    return layout.put(params.replace(language=None), spec.replace(language=None), self._place)

  def _tiles(self, media: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Pixels [S, S, 3] or features [M, D] of each tile."""
    size, width = self._config.vision.image_size, self._config.language.width
    for image in map(np.asarray, media):
      if image.ndim == 2 and image.shape[1] == width:
        yield image
      elif image.ndim == 4 and image.shape[1:] == (size, size, 3):
        yield from image.astype(np.float32)
      else:
        raise ValueError(f'an image of {image.shape}; expected tiles (n, {size}, {size}, 3) or features (m, {width})')

  def _count(self, tile: np.ndarray) -> int:
    return len(tile) if tile.ndim == 2 else self._config.tokens_per_tile

  def _features(self, tiles: list[np.ndarray]) -> list[np.ndarray]:
    """Features [M, D] of each tile of pixels."""
    done = []
    for start in range(0, len(tiles), BATCH):
      pixels = np.stack(tiles[start : start + BATCH])
      count = len(pixels)
      if count > 1:
        pixels = pad(pixels, BATCH)
      done += list(self._run(pixels)[:count])
    return done

  def _run(self, pixels: np.ndarray) -> np.ndarray:
    with jax.set_mesh(self._place.mesh):
      return np.asarray(_encode(self._params, self._config, pixels))
