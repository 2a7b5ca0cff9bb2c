"""InternViT: the vision tower (300M: LayerNorm; 6B: RMSNorm and full-width q/k norm).

M tiles   S pixels a side   D width
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import encoder
from core.mesh import RULES
from core.params import Spec, zeros
from core.tap import SITES as BLOCK_SITES

QK_NORM_EPS = 1e-6  # fixed in the released code; the block norms have an eps of their own
SITES = tuple(f'vision.{s}' for s in BLOCK_SITES)


@dataclasses.dataclass(frozen=True)
class Config:
  """A vision tower over square tiles of `image_size` pixels."""

  width: int
  mlp_width: int
  depth: int
  heads: int
  norm: str  # 'layer' | 'rms'
  qkv_bias: bool
  qk_norm: bool  # RMSNorm over the full width, before the head split
  image_size: int = 448
  patch: int = 14
  norm_eps: float = 1e-6
  layer_scale: float = 0.1  # initial value
  drop_path: float = 0.0  # stochastic depth at the last layer in training, linear from 0 at the first

  def __post_init__(self):
    if self.norm not in ('layer', 'rms'):
      raise ValueError(f"vision: norm={self.norm!r}; expected 'layer' or 'rms'")
    if self.image_size % self.patch:
      raise ValueError(f'vision: image_size={self.image_size} is not a multiple of patch={self.patch}')
    if self.width % self.heads:
      raise ValueError(f'vision: width={self.width} is not a multiple of heads={self.heads}')

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch

  @property
  def blocks(self) -> encoder.Config:
    """The tower's blocks."""
    qkv = ('q', 'k', 'v') if self.qkv_bias else ()
    return encoder.Config(
      width=self.width,
      depth=self.depth,
      heads=self.heads,
      head_dim=self.width // self.heads,
      mlp_width=self.mlp_width,
      norm=self.norm,
      norm_place='pre',
      norm_eps=self.norm_eps,
      biases=(*qkv, 'o', 'up', 'down'),
      qk_norm_eps=QK_NORM_EPS if self.qk_norm else None,
      layer_scale=self.layer_scale,
      drop_path=self.drop_path,
      axis='vision',
    )


@struct.dataclass
class Params:
  """Weights of the tower."""

  cls: Any  # [D]
  positions: Any  # [1 + grid², D]
  patch: Any  # [patch, patch, 3, D]
  patch_bias: Any
  blocks: Any


def spec(c: Config) -> Params:
  """Every weight, once."""
  d = c.width
  return Params(
    cls=Spec((d,), (None,)),
    positions=Spec((1 + c.grid**2, d), (None, 'vision'), inputs=0),
    patch=Spec((c.patch, c.patch, 3, d), (None, None, None, 'vision'), inputs=3),
    patch_bias=Spec((d,), (None,), zeros),
    blocks=encoder.spec(c.blocks),
  )


def bicubic_matrix(size: int, new: int) -> np.ndarray:
  """float32 [new, size]: 1-D bicubic interpolation with a = -0.75 and half-pixel centres, edges repeated.

  That is torch's `interpolate(mode='bicubic', align_corners=False)`; `jax.image.resize` uses a = -0.5.
  """
  a = -0.75
  at = (np.arange(new) + 0.5) * size / new - 0.5
  first = np.floor(at).astype(int) - 1
  out = np.zeros((new, size), np.float32)
  rows = np.arange(new)
  for tap in range(4):
    source = first + tap
    d = np.abs(at - source)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    weight = np.where(d <= 1, near, far)
    np.add.at(out, (rows, np.clip(source, 0, size - 1)), weight)
  return out


def embed(params: Params, config: Config, pixels: jax.Array) -> jax.Array:
  """Patch tokens [M, 1 + grid², D] of pixels [M, S, S, 3]; another size S resizes the position table bicubically."""
  c = config
  size = pixels.shape[1]
  if pixels.ndim != 4 or pixels.shape[2] != size or pixels.shape[3] != 3 or size % c.patch:
    raise ValueError(f'pixels {pixels.shape}: expected [tiles, S, S, 3] with S a multiple of {c.patch}')
  grid = size // c.patch
  patches = pixels.reshape(-1, grid, c.patch, grid, c.patch, 3).astype(params.patch.dtype)
  x = jnp.einsum('mrpcqi,pqid->mrcd', patches, params.patch)
  x = x.reshape(-1, grid**2, c.width) + params.patch_bias
  table = params.positions
  if grid != c.grid:
    rest = table[1:].reshape(c.grid, c.grid, -1).astype(jnp.float32)
    resize = bicubic_matrix(c.grid, grid)
    rest = jnp.einsum('rR,cC,RCd->rcd', resize, resize, rest)
    rest = rest.reshape(grid**2, -1)
    table = jnp.concatenate([table[:1], rest.astype(table.dtype)])
  cls = jnp.broadcast_to(params.cls, (x.shape[0], 1, c.width))
  x = jnp.concatenate([cls.astype(x.dtype), x], 1)
  return x + table


def apply(
  params: Params,
  config: Config,
  pixels: jax.Array,
  *,
  edit=None,
  keep=(),
  rules=RULES,
  remat_policy=None,
  drop_key=None,
) -> tuple[jax.Array, dict]:
  """(features [M, 1 + grid², D] of the last layer, CLS first and no final norm; kept activations).

  drop_key: a jax.random key switches stochastic depth on (training).
  """
  # Each tile is computed whole on one device: weights are gathered, activations never are.
  rules = dict(rules) | {'batch': rules['tiles'], 'attn_heads': None}
  return encoder.apply(
    params.blocks,
    config.blocks,
    embed(params, config, pixels),
    edit=edit,
    keep=keep,
    prefix='vision.',
    rules=rules,
    remat_policy=remat_policy,
    drop_key=drop_key,
  )
