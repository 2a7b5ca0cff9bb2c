"""Which image token takes which feature, where tiles have different numbers of image tokens.

B rows   T tokens   n tiles a row   F features of a tile that is not compressed
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def features_of(at: jax.Array, tile_tokens: jax.Array | None, full: int) -> jax.Array:
  """The feature that each image token takes, int32 [B, T], among the n·F features of its row.

  at: bool [B, T], the image tokens. tile_tokens: int32 [B, n], image tokens of each tile, which are its first features;
  None: all `full` = F of them. Values elsewhere than at image tokens have no meaning.
  """
  number = _numbers(at)
  if tile_tokens is None:
    return number
  tile, offset = _locate(number, tile_tokens)
  return tile * full + offset


def _numbers(at: jax.Array) -> jax.Array:
  """How many image tokens of the row come before each one, int32 [B, T]."""
  count = jnp.cumsum(at, -1)
  return jnp.clip(count - 1, 0)


def _locate(number: jax.Array, tile_tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(tile, place in the tile) of image tokens numbered along their row, each int32 [B, T]."""
  ends = jnp.cumsum(tile_tokens, -1)
  starts = ends - tile_tokens
  last = tile_tokens.shape[-1] - 1
  search = jax.vmap(functools.partial(jnp.searchsorted, side='right'))
  tile = search(ends, number)
  tile = jnp.minimum(tile, last)
  start = jnp.take_along_axis(starts, tile, -1)
  return tile, number - start


def shorten(
  at: jax.Array, positions: jax.Array, segments: jax.Array, tile_tokens: jax.Array, full: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(places, positions, segments) of packed rows laid out with `full` image tokens a tile, as if they were shortened.

  A tile with fewer tokens keeps its first ones. The other slots become padding in place, and positions close up, so the
  rows keep their shape under `jit`, and hidden states at other tokens equal those of rows without these slots.

  at: bool [B, T], the image tokens. positions: int32 [B, T], 0.. in each sample, -1 at padding. segments: int32 [B, T],
  0 at padding. tile_tokens: int32 [B, n]. places: bool [B, T], the image tokens that stay, for `internvl.model.embed`.
  """
  number = _numbers(at)
  last = tile_tokens.shape[-1] - 1
  tile = jnp.minimum(number // full, last)
  kept_of_tile = jnp.take_along_axis(tile_tokens, tile, -1)
  in_tile = number % full
  dropped = at & (in_tile >= kept_of_tile)
  before = jnp.cumsum(dropped, -1) - dropped
  # Earlier samples of the row have slots dropped too; `before` never falls, so its maximum is the present sample's.
  is_start = positions == 0
  at_starts = jnp.where(is_start, before, 0)
  before_sample = jax.lax.cummax(at_starts, axis=positions.ndim - 1)
  closed = positions - (before - before_sample)
  padding = dropped | (positions < 0)
  closed = jnp.where(padding, -1, closed)
  segments = jnp.where(dropped, 0, segments)
  return at & ~dropped, closed, segments


def shortened(tokens: np.ndarray, image_token: int, tile_tokens: np.ndarray, full: int) -> np.ndarray:
  """Which tokens of a prompt stay, bool [T]: of the `full` slots of each tile the first `tile_tokens`, and all text.

  Raises ValueError if the prompt does not have `full` image tokens for each tile.
  """
  at = np.flatnonzero(tokens == image_token)
  tiles = len(tile_tokens)
  if len(at) != full * tiles:
    raise ValueError(f'a prompt with {len(at)} image tokens and {tiles} tiles; expected {full} for each tile')
  keep = np.ones(len(tokens), bool)
  of_tile = np.asarray(tile_tokens).reshape(-1, 1)
  stays = np.arange(full) < of_tile
  keep[at] = stays.reshape(-1)
  return keep


def check(config: Any, tokens: Any, pixels: Any = None, tile_tokens: Any = None) -> None:
  """Raises ValueError where image tokens and tiles, as `apply` takes them, do not match; the logits would be wrong.

  Only known values are checked: nothing under `jit`, and no array that spans processes.
  """
  if not all(map(_is_known, (tokens, pixels, tile_tokens))):
    return
  is_image = np.asarray(tokens) == config.image_token
  counts = is_image.sum(-1)
  if tile_tokens is not None:
    _check_ragged(config, counts, pixels, np.asarray(tile_tokens))
  else:
    _check_even(config.tokens_per_tile, counts, pixels)


def _is_known(x: Any) -> bool:
  """Whether this process can read the values of x."""
  if not isinstance(x, jax.Array):
    return True
  return not isinstance(x, jax.core.Tracer) and x.is_fully_addressable


def _check_ragged(config: Any, counts: np.ndarray, pixels: Any, tile_tokens: np.ndarray) -> None:
  allowed = (0, config.compact_tokens, config.tokens_per_tile)
  if not np.isin(tile_tokens, allowed).all():
    raise ValueError(f'tile_tokens={tile_tokens.tolist()}: expected some of {list(allowed)}')
  tiles = None
  if pixels is not None:
    tiles = tuple(pixels.shape[:-3])
  if tile_tokens.shape != tiles:
    raise ValueError(f'tile_tokens of shape {tile_tokens.shape} for tiles {tiles}; expected one number a tile')
  if not _is_equal(counts, tile_tokens):
    raise ValueError(
      f'rows with {counts.tolist()} image tokens for tiles of {tile_tokens.tolist()}; expected equal numbers'
    )


def _is_equal(counts: np.ndarray, tile_tokens: np.ndarray) -> bool:
  """Whether rows with `counts` [B] image tokens hold those of the tiles of each row [B, n], or of all rows [n]."""
  if tile_tokens.ndim == 2:
    return (tile_tokens.sum(-1) == counts).all()
  ends = np.cumsum(counts)
  tile_ends = np.cumsum(tile_tokens)
  whole = np.isin(ends, [0, *tile_ends]).all()  # each row ends where a tile ends
  return whole and ends[-1] == tile_tokens.sum()


def _check_even(per_tile: int, counts: np.ndarray, pixels: Any) -> None:
  uneven = np.flatnonzero(counts % per_tile)
  if len(uneven):
    row = int(uneven[0])
    raise ValueError(f'row {row} has {counts[row]} image tokens; expected a multiple of {per_tile}, those of a tile')
  used = counts // per_tile
  if pixels is None:
    given = np.zeros_like(used)
    rest = []
  elif pixels.ndim == 5:
    given = np.full_like(used, pixels.shape[1])
    rest = [row[n:] for row, n in zip(pixels, used)]
  else:
    used = used.sum(keepdims=True)
    given = np.array([len(pixels)])
    first = int(used[0])
    rest = [pixels[first:]]
  too_few = (used > given).any()
  if too_few or not all(map(_is_blank, rest)):
    raise ValueError(f'the tokens have places for {used.tolist()} tiles, and the pixels hold {given.tolist()}')


def _is_blank(tiles: Any) -> bool:
  """Whether tiles are padding: a tile of an image is never 0 everywhere once normalised."""
  return not np.asarray(tiles).any()
