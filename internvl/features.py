"""Image tiles by content: each distinct one is encoded once.

n tiles   S pixels a side   M image tokens of a tile   D width
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from core import mesh
from core.engine import layout as weights
from core.mesh import constrain
from core.padding import pad
from internvl import model

BATCH = 8  # tiles encoded together; a single one goes alone


@dataclasses.dataclass
class _Tile:
  pixels: np.ndarray
  users: int = 0
  features: np.ndarray | None = None  # [M, D]


@functools.partial(jax.jit, static_argnames='config')
def _encode(params, config, pixels):
  return constrain(model.encode(params, config, pixels)[0], (None, None, None))  # every process reads them


class Images:
  """Tiles in use, and the `spare` last used besides. An image token is named -1 - (tile · M + its place in it)."""

  def __init__(self, params: model.Params, config: model.Config, place: mesh.Share, spare: int = 256):
    self._config, self._place, self._spare = config, place, spare
    self._params = self._lay(params)
    self.encoded = 0  # tiles so far
    self._ids: dict[bytes, int] = {}
    self._tiles: collections.OrderedDict[int, tuple[bytes, _Tile]] = collections.OrderedDict()  # least recent first
    self._next = 0

  def name(self, prompt: Sequence[int], images: Sequence[np.ndarray]) -> list[int]:
    """The prompt with each image token named after its content; its tiles are now in use once more.

    Raises ValueError when tiles and image tokens do not match, or the prompt ends in an image.
    """
    size, per_tile = self._config.vision.image_size, self._config.tokens_per_tile
    tiles = [np.asarray(tile, np.float32) for image in images for tile in image]
    at = [i for i, token in enumerate(prompt) if token == self._config.image_token]
    if len(at) != len(tiles) * per_tile:
      raise ValueError(f'a prompt with {len(at)} image tokens and {len(tiles)} tiles of {per_tile}')
    if any(tile.shape != (size, size, 3) for tile in tiles):
      raise ValueError(f'tiles of {[t.shape for t in tiles]}; expected ({size}, {size}, 3)')
    if at and at[-1] == len(prompt) - 1:
      raise ValueError('the last token of a prompt must be text, not an image')
    named = list(prompt)
    for place, tile in zip(range(0, len(at), per_tile), tiles):
      first = self._use(tile) * per_tile
      for j in range(per_tile):
        named[at[place + j]] = -1 - (first + j)
    return named

  def release(self, content: Sequence[int]) -> None:
    """Ends one use of the tiles in a named prompt."""
    for tile in (tiles := self._in(content)):
      self._tiles[tile][1].users -= 1
    if all(self._tiles[tile][1].users for tile in tiles):
      return
    idle = [i for i, (_, tile) in self._tiles.items() if not tile.users]
    for i in idle[: max(len(idle) - self._spare, 0)]:
      del self._ids[self._tiles.pop(i)[0]]

  def share(self, content: Sequence[int]) -> None:
    """One more use of the tiles in a named prompt."""
    for tile in self._in(content):
      self._tiles[tile][1].users += 1

  def features(self, content: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """([C, D], bool [C]): embeddings at the image tokens among C named tokens, and where those are."""
    per_tile, width = self._config.tokens_per_tile, self._config.language.width
    self._encode(self._in(content))
    given = np.array([c < 0 for c in content])
    out = np.zeros((len(content), width), np.float32)
    for i in np.flatnonzero(given):
      tile, j = divmod(-1 - content[i], per_tile)
      out[i] = self._tiles[tile][1].features[j]
    return out, given

  def warm(self) -> None:
    """Compiles what it runs."""
    size = self._config.vision.image_size
    for batch in (1, BATCH):
      _encode(self._params, self._config, np.zeros((batch, size, size, 3), np.float32))

  def update(self, params: model.Params) -> None:
    """New weights: features are computed afresh when they are next needed."""
    self._params = None  # the old weights make room first
    self._params = self._lay(params)
    for _, tile in self._tiles.values():
      tile.features = None

  def _lay(self, params: model.Params) -> model.Params:
    """All but the language model, where the engine lives."""
    spec = model.spec(self._config)
    return weights.put(params.replace(language=None), spec.replace(language=None), self._place)

  def _in(self, content) -> list[int]:
    return sorted({(-1 - c) // self._config.tokens_per_tile for c in content if c < 0})

  def _use(self, pixels: np.ndarray) -> int:
    digest = hashlib.sha256(pixels.tobytes()).digest()
    if digest not in self._ids:
      self._ids[digest] = self._next
      self._tiles[self._next] = digest, _Tile(pixels)
      self._next += 1
    tile = self._ids[digest]
    self._tiles.move_to_end(tile)
    self._tiles[tile][1].users += 1
    return tile

  def _encode(self, tiles: Sequence[int]) -> None:
    pending = [self._tiles[i][1] for i in tiles if self._tiles[i][1].features is None]
    for start in range(0, len(pending), BATCH):
      part = pending[start : start + BATCH]
      pixels = np.stack([t.pixels for t in part])
      if len(part) > 1:
        pixels = pad(pixels, BATCH)
      for tile, features in zip(part, np.asarray(_encode(self._params, self._config, pixels), np.float32)):
        tile.features = features
      self.encoded += len(part)
