"""InternVL3.5: tiles → InternViT → pixel shuffle → MLP → scattered into the language model's embeddings.

A Flash model has a second projector, which makes a quarter of the image tokens of a tile
(`internvl.flash.compact`), and a router that says which tiles get it (`internvl.flash.router`). How many tokens
each tile has is data: `tile_tokens`, an int32 array that is `config.tokens_per_tile` (256) or
`config.compact_tokens` (64) for each tile, and 0 at padding.

B batch   T time   M tiles of the whole batch   P patches   D language width   V vocabulary
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder
from core import params as params_lib
from core.mesh import RULES
from core.tap import MODEL_SITES, check, site_of
from internvl import projector, vision
from internvl.flash import compact, router, slots

SITES = (*vision.SITES, *MODEL_SITES)


@dataclasses.dataclass(frozen=True)
class Config:
  """vision and language towers; `image_token` is the id of `<IMG_CONTEXT>`; `shuffle` patches a side make a token.

  flash: the decision rule of a Flash model; None for a base model, which has neither router nor compact projector.
  """

  vision: vision.Config
  language: decoder.Config
  image_token: int
  shuffle: int = 2
  flash: router.Config | None = None

  def __post_init__(self):
    grid = self.vision.grid
    if grid % self.shuffle:
      raise ValueError(f'internvl: a grid of {grid} patches is not a multiple of shuffle={self.shuffle}')
    if self.flash and grid % self.compact_shuffle:
      raise ValueError(
        f'internvl: a grid of {grid} patches is not a multiple of {self.compact_shuffle}, as Flash needs'
      )
    if not 0 <= self.image_token < self.language.vocab:
      raise ValueError(f'internvl: image_token={self.image_token} is outside the vocabulary of {self.language.vocab}')

  @property
  def tokens_per_tile(self) -> int:
    """Image tokens of one tile: 256 for 448 pixels."""
    return (self.vision.grid // self.shuffle) ** 2

  @property
  def compact_shuffle(self) -> int:
    """Patches along a side of the square that becomes one token of a compressed tile."""
    return 2 * self.shuffle

  @property
  def compact_tokens(self) -> int:
    """Image tokens of a compressed tile: 64 for 448 pixels."""
    return (self.vision.grid // self.compact_shuffle) ** 2


@struct.dataclass
class Params:
  """Weights of the whole model."""

  vision: vision.Params
  projector: projector.Params
  language: decoder.Params
  compact: Any = None  # internvl.flash.compact.Params; None: a base model
  router: Any = None  # internvl.flash.router.Params; None: a base model


Output = decoder.Output


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  wide = config.vision.width
  width = config.language.width
  return Params(
    vision=vision.spec(c.vision),
    projector=projector.spec(wide, width, c.shuffle),
    language=decoder.spec(c.language),
    compact=compact.spec(wide, width, c.compact_shuffle) if c.flash else None,
    router=router.spec(wide) if c.flash else None,
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return params_lib.init(key, spec(config), dtype)


def patches(params: Params, config: Config, pixels: jax.Array, **options: Any) -> tuple[jax.Array, dict]:
  """(patch features [..., P, vision width] without CLS, kept activations) of normalised pixels [..., S, S, 3].

  options: as in `internvl.vision.apply`.
  """
  tiles = pixels.reshape(-1, *pixels.shape[-3:])
  features, kept = vision.apply(params.vision, config.vision, tiles, **options)
  features = features[:, 1:]
  return features.reshape(*pixels.shape[:-3], *features.shape[1:]), kept


def project(
  params: Params, config: Config, features: jax.Array, *, compressed: bool = False, key: jax.Array | None = None
) -> jax.Array:
  """Image embeddings [..., tokens_per_tile or compact_tokens, D] of patch features [..., P, vision width].

  key: switches dropout of the compact projector on (training). Raises ValueError for compression by a base model.
  """
  if compressed:
    _check_flash(config)
  tiles = features.reshape(-1, *features.shape[-2:])
  if compressed:
    images = compact.apply(params.compact, tiles, config.compact_shuffle, key=key)
  else:
    images = projector.apply(params.projector, tiles, config.shuffle)
  return images.reshape(*features.shape[:-2], *images.shape[1:])


def _check_flash(config: Config) -> None:
  if config.flash is None:
    raise ValueError('internvl: this model has no compact projector; expected a Flash model for compressed tiles')


def project_mixed(
  params: Params, config: Config, features: jax.Array, tile_tokens: jax.Array, *, key: jax.Array | None = None
) -> jax.Array:
  """Image embeddings [..., tokens_per_tile, D] of tiles that are compressed where `tile_tokens` [...] says so.

  Those of a compressed tile are the first `compact_tokens`; what follows is not read. Both projectors run on all tiles,
  so that which tiles are compressed is data and changes no shape.
  """
  full = project(params, config, features)
  few = project(params, config, features, compressed=True, key=key)
  unread = full.shape[-2] - few.shape[-2]
  leading = [(0, 0)] * (few.ndim - 2)
  few = jnp.pad(few, [*leading, (0, unread), (0, 0)])
  compressed = jnp.asarray(tile_tokens) == config.compact_tokens
  return jnp.where(compressed[..., None, None], few, full)


def encode(
  params: Params,
  config: Config,
  pixels: jax.Array,
  *,
  tile_tokens: jax.Array | None = None,
  drop_key: jax.Array | None = None,
  **options: Any,
) -> tuple[jax.Array, dict]:
  """(image embeddings [..., tokens_per_tile, D], kept activations) of normalised pixels [..., S, S, 3].

  tile_tokens: int32 [...]; None: no tile is compressed. drop_key: switches stochastic depth of the vision tower and
  dropout of the compact projector on (training). options: as in `internvl.vision.apply`.
  """
  features, kept = patches(params, config, pixels, drop_key=drop_key, **options)
  if tile_tokens is None:
    return project(params, config, features), kept
  key = None
  if drop_key is not None:
    key = jax.random.fold_in(drop_key, config.vision.depth)
  return project_mixed(params, config, features, tile_tokens, key=key), kept


def embed(
  params: Params,
  config: Config,
  tokens: jax.Array,
  images: jax.Array | None = None,
  rules=RULES,
  *,
  places: jax.Array | None = None,
  tile_tokens: jax.Array | None = None,
) -> jax.Array:
  """Embeddings [B, T, D] of tokens [B, T]; image tokens take the image embeddings in sequence order.

  images: [B, n, tokens_per_tile, D], the tiles of each row; or [M, tokens_per_tile, D], those of all rows in row
  order. Padding tiles at the end are not read. places: bool [B, T], the image tokens that stand for images; by default
  all are. tile_tokens: int32 [B, n] or [M], how many embeddings of each tile are read; None: all.
  """
  x = decoder.embed(params.language, tokens, rules)
  if images is None:
    return x
  at = places
  if places is None:
    at = tokens == config.image_token
  at_rows = at if images.ndim == 4 else at.reshape(1, -1)
  tiles = None
  if tile_tokens is not None:
    tiles = jnp.asarray(tile_tokens).reshape(at_rows.shape[0], -1)
  order = slots.features_of(at_rows, tiles, images.shape[-2])
  rows = images.reshape(at_rows.shape[0], -1, images.shape[-1])
  image = jnp.take_along_axis(rows, order[..., None], 1, mode='clip').reshape(x.shape)
  return jnp.where(at[..., None], image.astype(x.dtype), x)


def forward(
  params: Params,
  config: Config,
  tokens: jax.Array,
  *,
  pixels=None,
  tile_tokens=None,
  places=None,
  edit=None,
  keep=(),
  rules=RULES,
  remat_policy=None,
  drop_key=None,
  **options: Any,
) -> decoder.Hidden:
  """Final hidden states [B, T, D]; arguments as in `apply` and `embed`, with `remat_policy` and `drop_key` to train."""
  check(keep, SITES)
  images = None
  seen = {}
  if pixels is not None:
    images, seen = encode(
      params,
      config,
      pixels,
      tile_tokens=tile_tokens,
      edit=edit,
      keep=keep,
      rules=rules,
      remat_policy=remat_policy,
      drop_key=drop_key,
    )
  x = embed(params, config, tokens, images, rules, places=places, tile_tokens=tile_tokens)
  own = tuple(k for k in keep if site_of(k) in MODEL_SITES)
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
  tile_tokens=None,
  positions=None,
  segments=None,
  cache=None,
  edit=None,
  keep=(),
  rules=RULES,
) -> Output:
  """Logits of tokens int32 [B, T].

  pixels: float [B, n, S, S, 3], the tiles of each row, or [M, S, S, 3], those of all rows in order; padding tiles come
  last. tile_tokens: int32 [B, n] or [M], the image tokens of each tile; None: `tokens_per_tile` each. positions: int32
  [B, T], -1 at padding. segments: int32 [B, T], 0 at padding.
  cache: as in `core.decoder.forward`; continues a conversation, images in later turns included. edit, keep: see
  `core.tap`; sites in SITES.
  Raises ValueError on unknown sites and impossible combinations, and, outside `jit`, as `internvl.flash.slots.check`.
  """
  if cache is None or pixels is not None:
    slots.check(config, tokens, pixels, tile_tokens)
  out = forward(
    params,
    config,
    tokens,
    pixels=pixels,
    tile_tokens=tile_tokens,
    positions=positions,
    segments=segments,
    cache=cache,
    edit=edit,
    keep=keep,
    rules=rules,
  )
  logits = decoder.logits(params.language, config.language, out.hidden)
  return Output(logits=logits, cache=out.cache, kept=out.kept, balance=out.balance)
