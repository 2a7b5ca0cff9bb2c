"""Routing the tiles of prompts: which of them a Flash model compresses, and what that saves.

n tiles of a prompt   N tiles of all prompts   P patches   S side of a tile
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np

from core import padding
from internvl import model, vision
from internvl.flash import router
from internvl.inputs.processor import Inputs, compress

# 'auto': the model's rule, relative to the other tiles of the prompt. 'absolute': its absolute threshold alone, so that
# a tile's decision depends on nothing but the tile.
Compression = Literal['auto', 'absolute', 'all', 'off']
CHOICES = get_args(Compression)
TILES = 8  # encoded at a time: what the vision tower needs does not grow with the number of images


@dataclasses.dataclass(frozen=True)
class Routing:
  """How the tiles of one prompt are routed.

  compressed: bool [n]. scores: float32 [n], the probability that a tile may be compressed; None where no score was
  asked for. tokens, compact_tokens: image tokens of a tile, and of a compressed one.
  """

  compressed: np.ndarray
  scores: np.ndarray | None
  tokens: int
  compact_tokens: int

  @property
  def full(self) -> int:
    """Image tokens of the prompt without compression."""
    return len(self.compressed) * self.tokens

  @property
  def saved(self) -> int:
    """Image tokens that compression takes away."""
    return int(self.compressed.sum()) * (self.tokens - self.compact_tokens)

  def summary(self) -> str:
    """One line: the compressed tiles, numbered from 1, and what that saves."""
    total = len(self.compressed)
    numbers = ', '.join(str(i + 1) for i in np.flatnonzero(self.compressed)) or 'none'
    share = self.saved / self.full if total else 0.0
    fed = self.full - self.saved
    return f'compressed tiles: {numbers} (of {total}); image tokens: {fed} instead of {self.full}, {share:.0%} saved'


def resolve(config: model.Config, compression: Compression | None) -> Compression:
  """The mode of a request: as asked, else the model's own. Raises ValueError for one that the model cannot do."""
  if compression is None:
    if config.flash and config.flash.enabled:
      return 'auto'
    return 'off'
  if compression not in CHOICES:
    raise ValueError(f'compression={compression!r}; expected one of {list(CHOICES)}')
  if compression != 'off' and config.flash is None:
    raise ValueError(f'compression={compression!r}: only a Flash model can compress; expected off')
  return compression


def needs_scores(mode: Compression) -> bool:
  """Whether the router is asked."""
  return mode in ('auto', 'absolute')


def decide(config: model.Config, scores: np.ndarray | None, tiles: int, mode: Compression) -> Routing:
  """The routing of a prompt of `tiles` tiles; scores: float32 [tiles], None where the mode needs none."""
  if needs_scores(mode):
    rule = config.flash
    relative = rule.relative if mode == 'auto' else None
    compressed = router.decide(scores, relative=relative, absolute=rule.absolute)
  else:
    compressed = np.full(tiles, mode == 'all')
  return Routing(
    compressed=compressed,
    scores=scores,
    tokens=config.tokens_per_tile,
    compact_tokens=config.compact_tokens,
  )


def shorten(x: Inputs, routing: Routing, image_id: int) -> Inputs:
  """A prompt as it was laid out in full, with the image tokens that its routing leaves."""
  return compress(x, image_id, routing.compressed, routing.compact_tokens)


def tile_bucket(n: int) -> int:
  """0..4, then as `core.padding.bucket`: 6, 8, 12, 16, 24, …: numbers of tiles in one bucket share a program."""
  if n < 4:
    return n
  return padding.bucket(n, 4)


def patches(params: model.Params, config: model.Config, pixels: jax.Array) -> jax.Array:
  """Patch features [N, P, vision width] of tiles [N, S, S, 3], TILES at a time where N is a multiple of that."""
  return _patches(params.vision, config.vision, pixels)


# Of the tower alone, so that a base model and Flash models with other thresholds share the program.
@functools.partial(jax.jit, static_argnames='config')
def _patches(params: vision.Params, config: vision.Config, pixels: jax.Array) -> jax.Array:
  groups = pixels[None]
  if len(pixels) % TILES == 0:
    groups = pixels.reshape(-1, TILES, *pixels.shape[1:])

  def of_tiles(tiles):
    features, _ = vision.apply(params, config, tiles)
    return features[:, 1:]

  features = jax.lax.map(of_tiles, groups)
  return features.reshape(-1, *features.shape[2:])


scores = jax.jit(router.scores)


def route(
  params: model.Params, config: model.Config, prompts: Sequence[Inputs], mode: Compression, *, features: Any
) -> list[Routing]:
  """The routing of each prompt by itself. features: `patches` of the tiles of all prompts, in order."""
  asked = needs_scores(mode) and features is not None
  found = None
  if asked:
    found = np.asarray(scores(params.router, features))
  routings = []
  start = 0
  for prompt in prompts:
    stop = start + len(prompt.pixels)
    own = np.zeros(0, np.float32) if found is None else found[start:stop]
    routings.append(decide(config, own if needs_scores(mode) else None, len(prompt.pixels), mode))
    start = stop
  return routings
