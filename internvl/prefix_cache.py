"""Keys and values kept between the turns of a conversation, so that a turn prefills only what is new.

T prompt tokens   N tiles   S side of a tile
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from core.engine.generate import Generation
from core.past.cache import Cache, truncated
from internvl.inputs.processor import Inputs


def identities(prompt: Inputs, image_id: int) -> np.ndarray:
  """int64 [T]: equal numbers where keys and values are equal, given equal numbers before.

  A text token is its id. A token of a tile is drawn from the tile's bytes, how many tokens it has, and its place.
  """
  result = np.asarray(prompt.tokens, np.int64).copy()
  of_tiles = [_tile(pixels, int(count)) for pixels, count in zip(prompt.pixels, prompt.tile_tokens)]
  places = np.flatnonzero(prompt.tokens == image_id)
  if of_tiles:
    result[places] = np.concatenate(of_tiles)
  return result


def _tile(pixels: np.ndarray, count: int) -> np.ndarray:
  digest = hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=8, salt=count.to_bytes(4, 'little')).digest()
  base = int.from_bytes(digest, 'little') >> 2
  return -1 - ((base + np.arange(count)) & (2**62 - 1))  # negative: no token id


def after(prompt: Inputs, length: int, image_id: int) -> Inputs:
  """A prompt without its first `length` tokens and without the tiles among them."""
  gone = int((prompt.tokens[:length] == image_id).sum())
  tiles = int(np.searchsorted(np.cumsum(prompt.tile_tokens), gone, side='right'))
  return dataclasses.replace(
    prompt,
    tokens=prompt.tokens[length:],
    mask=prompt.mask[length:],
    pixels=prompt.pixels[tiles:],
    tile_tokens=prompt.tile_tokens[tiles:],
  )


@dataclasses.dataclass
class PrefixCache:
  """What the last turn left. Give one to every turn of a conversation (`internvl.chat(…, prefix_cache=…)`).

  reused: tokens of the last prompt whose keys and values were kept.
  """

  reused: int = 0
  _params: Any = None
  _prompt: np.ndarray | None = None  # the last prompt's identities
  _generation: Generation | None = None  # what it answers: read when the next turn asks
  _cache: Cache | None = None  # of the turn before, until `past` takes it

  def begin(self, params: Any, prompt: Inputs, image_id: int) -> Inputs:
    """The part of a prompt that is still to be computed; `reused` says how many tokens are not."""
    known = identities(prompt, image_id)
    self.reused = self._common(params, known)
    self._cache = self._generation.state.cache if self.reused else None
    self._params = params
    self._prompt = known
    self._generation = None
    return after(prompt, self.reused, image_id)

  def past(self, slots: int) -> Cache | None:
    """The reused tokens in a cache of `slots`; None where there are none."""
    cache = self._cache
    self._cache = None
    if cache is None:
      return None
    return truncated(cache, jnp.int32(self.reused), slots=slots)

  def keep(self, generation: Generation) -> None:
    """Remembers the answer to the prompt that began."""
    self._generation = generation

  def _common(self, params: Any, prompt: np.ndarray) -> int:
    """How many tokens of a prompt of these identities the last turn computed, with the same parameters.

    At least one is left over, from which the first logits come.
    """
    last = self._generation
    if last is None or self._params is not params or bool(last.state.failed.any()):
      return 0
    written = int(np.asarray(last.state.cache.positions).max()) + 1
    said = np.asarray(last.rows()[0], np.int64)
    known = np.concatenate([self._prompt, said])[: min(written, len(prompt) - 1)]
    differs = np.flatnonzero(known != prompt[: len(known)])
    if differs.size:
      return int(differs[0])
    return len(known)
