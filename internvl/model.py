"""InternVL3.5: tiles → InternViT → pixel shuffle → MLP → scattered into the language model's embeddings.

B batch   T time   M tiles of the whole batch   D language width   V vocabulary
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core import params as params_lib
from core.mesh import RULES
from core.tap import SITES as BLOCK_SITES
from core.tap import check
from internvl import projector, vision

SITES = (*vision.SITES, *BLOCK_SITES)


@dataclasses.dataclass(frozen=True)
class Config:
  """vision and language towers; `image_token` is the id of `<IMG_CONTEXT>`; `shuffle` patches a side make a token."""

  vision: vision.Config
  language: decoder.Config
  image_token: int
  shuffle: int = 2

  def __post_init__(self):
    if self.vision.grid % self.shuffle:
      raise ValueError(f'internvl: a grid of {self.vision.grid} patches is not a multiple of shuffle={self.shuffle}')
    if not 0 <= self.image_token < self.language.vocab:
      raise ValueError(f'internvl: image_token={self.image_token} is outside the vocabulary of {self.language.vocab}')

  @property
  def tokens_per_tile(self) -> int:
    """Image tokens of one tile: 256 for 448 pixels."""
    return (self.vision.grid // self.shuffle) ** 2


@struct.dataclass
class Params:
  """Weights of the whole model."""

  vision: vision.Params
  projector: projector.Params
  language: decoder.Params


Output = decoder.Output


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  return Params(
    vision=vision.spec(c.vision),
    projector=projector.spec(c.vision.width, c.language.width, c.shuffle),
    language=decoder.spec(c.language),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return params_lib.init(key, spec(config), dtype)


def encode(params: Params, config: Config, pixels: jax.Array, **options: Any) -> tuple[jax.Array, dict]:
  """(image embeddings [..., tokens_per_tile, D], kept activations) of normalised pixels [..., S, S, 3].

  options: as in `internvl.vision.apply`.
  """
  tiles = pixels.reshape(-1, *pixels.shape[-3:])
  features, kept = vision.apply(params.vision, config.vision, tiles, **options)
  images = projector.apply(params.projector, features[:, 1:], config.shuffle)
  return images.reshape(*pixels.shape[:-3], *images.shape[1:]), kept


def embed(
  params: Params,
  config: Config,
  tokens: jax.Array,
  images: jax.Array | None = None,
  rules=RULES,
  *,
  places: jax.Array | None = None,
) -> jax.Array:
  """Embeddings [B, T, D] of tokens [B, T]; image tokens take the image embeddings in sequence order.

  images: [B, n, tokens_per_tile, D], the tiles of each row; or [M, tokens_per_tile, D], those of all rows in row
  order. Padding tiles at the end are not read. places: bool [B, T], the image tokens that stand for images; by default
  all are.
  """
  x = decoder.embed(params.language, tokens, rules)
  if images is None:
    return x
  at = tokens == config.image_token if places is None else places
  count = at if images.ndim == 4 else at.reshape(1, -1)
  order = jnp.clip(jnp.cumsum(count, -1) - 1, 0)
  rows = images.reshape(count.shape[0], -1, images.shape[-1])
  image = jnp.take_along_axis(rows, order[..., None], 1, mode='clip').reshape(x.shape)
  return jnp.where(at[..., None], image.astype(x.dtype), x)


def check_images(config: Config, tokens: Any, pixels: Any = None) -> None:
  """Raises ValueError where image tokens and tiles, as `apply` takes them, do not match; the logits would be wrong.

  Only values that are known are looked at: nothing is checked under `jit`, or of arrays that span processes.
  """
  known = (x for x in (tokens, pixels) if isinstance(x, jax.Array))
  if any(isinstance(x, jax.core.Tracer) or not x.is_fully_addressable for x in known):
    return
  counts = (np.asarray(tokens) == config.image_token).sum(-1)
  uneven = np.flatnonzero(counts % config.tokens_per_tile)
  if len(uneven):
    row = int(uneven[0])
    raise ValueError(
      f'row {row} has {counts[row]} image tokens; expected a multiple of {config.tokens_per_tile}, those of a tile'
    )
  used = counts // config.tokens_per_tile
  if pixels is None:
    given, blank = np.zeros_like(used), True
  elif pixels.ndim == 5:
    given, blank = np.full_like(used, pixels.shape[1]), all(_blank(row[n:]) for row, n in zip(pixels, used))
  else:
    used = used.sum(keepdims=True)
    given, blank = np.array([len(pixels)]), _blank(pixels[int(used[0]) :])
  if (used > given).any() or not blank:
    raise ValueError(f'the tokens have places for {used.tolist()} tiles, and the pixels hold {given.tolist()}')


def _blank(tiles: Any) -> bool:
  """Whether tiles are padding: a tile of an image is never 0 everywhere once normalised."""
  return not np.asarray(tiles).any()


def forward(
  params: Params,
  config: Config,
  tokens: jax.Array,
  *,
  pixels=None,
  edit=None,
  keep=(),
  rules=RULES,
  remat_policy='none',
  drop_key=None,
  **options: Any,
) -> decoder.Hidden:
  """Final hidden states; arguments as in `apply`, and for training `remat_policy` and `drop_key`."""
  check(keep, SITES)
  images, seen = None, {}
  if pixels is not None:
    images, seen = encode(
      params, config, pixels, edit=edit, keep=keep, rules=rules, remat_policy=remat_policy, drop_key=drop_key
    )
  x = embed(params, config, tokens, images, rules)
  own = tuple(s for s in keep if s in BLOCK_SITES)
  out = decoder.forward(
    params.language, config.language, x, edit=edit, keep=own, rules=rules, remat_policy=remat_policy, **options
  )
  return out.replace(kept=seen | out.kept)


def apply(
  params: Params,
  config: Config,
  tokens: jax.Array,
  *,
  pixels=None,
  positions=None,
  segments=None,
  cache=None,
  edit=None,
  keep=(),
  rules=RULES,
) -> Output:
  """Logits of tokens int32 [B, T].

  pixels: float [B, n, S, S, 3], the tiles of each row, or [M, S, S, 3], those of all rows in order; padding tiles come
  last. Each tile feeds `tokens_per_tile` image tokens. positions: int32 [B, T], -1 at padding. segments: int32
  [B, T], 0 at padding.
  cache: as in `core.decoder.forward`; continues a conversation, images in later turns included. edit, keep: see
  `core.tap`; sites in SITES.
  Raises ValueError on unknown sites and impossible combinations, and, outside `jit`, as `check_images` does.
  """
  if cache is None or pixels is not None:
    check_images(config, tokens, pixels)
  out = forward(
    params,
    config,
    tokens,
    pixels=pixels,
    positions=positions,
    segments=segments,
    cache=cache,
    edit=edit,
    keep=keep,
    rules=rules,
  )
  logits = decoder.logits(params.language, config.language, out.hidden)
  return Output(logits=logits, cache=out.cache, kept=out.kept, balance=out.balance)
