"""InternViT: the vision tower (300M: LayerNorm; 6B: RMSNorm and full-width q/k norm).

M tiles   P patches + 1   D width   N heads   H head size   F feed-forward
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core.attention import Keys, attention
from core.layers import gelu, layer_norm, rms_norm
from core.mesh import RULES, constrain
from core.params import Spec, einsum, ones, stack, stacked, walk, zeros
from core.remat import remat
from core.tap import SITES as BLOCK_SITES
from core.tap import taps

QK_NORM_EPS = 1e-6  # fixed in the released code, whatever the block norms' eps
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
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads


@struct.dataclass
class Norm:
  """Weights of LayerNorm, or of RMSNorm."""

  scale: Any
  bias: Any = None  # None: RMSNorm


@struct.dataclass
class Attention:
  """Weights of self-attention; None where the tower has none."""

  q: Any  # [D, N, H]
  k: Any
  v: Any
  o: Any  # [N, H, D]
  o_bias: Any
  q_bias: Any = None  # [N, H]
  k_bias: Any = None
  v_bias: Any = None
  q_norm: Any = None  # [D]
  k_norm: Any = None


@struct.dataclass
class Block:
  """Weights of one layer."""

  attn_norm: Norm
  attn: Attention
  attn_scale: Any  # [D], layer scale
  mlp_norm: Norm
  up: Any  # [D, F]
  up_bias: Any
  down: Any  # [F, D]
  down_bias: Any
  mlp_scale: Any


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
  d, n, h, f = c.width, c.heads, c.head_dim, c.mlp_width
  vector = lambda shape, init, on=True: Spec(shape, (None,) * len(shape), init) if on else None
  norm = Norm(vector((d,), ones), vector((d,), zeros, c.norm == 'layer'))
  into = Spec((d, n, h), ('vision', 'heads', None))
  bias = vector((n, h), zeros, c.qkv_bias)
  full = vector((d,), ones, c.qk_norm)
  scale = vector((d,), lambda key, shape, dtype: jnp.full(shape, c.layer_scale, dtype))
  attn = Attention(
    into,
    into,
    into,
    Spec((n, h, d), ('heads', None, 'vision'), inputs=2),
    vector((d,), zeros),
    bias,
    bias,
    bias,
    full,
    full,
  )
  block = Block(
    norm,
    attn,
    scale,
    norm,
    Spec((d, f), ('vision', 'mlp')),
    vector((f,), zeros),
    Spec((f, d), ('mlp', 'vision')),
    vector((d,), zeros),
    scale,
  )
  return Params(
    Spec((d,), (None,)),
    Spec((1 + c.grid**2, d), (None, 'vision'), inputs=0),
    Spec((c.patch, c.patch, 3, d), (None, None, None, 'vision'), inputs=3),
    vector((d,), zeros),
    stacked(block, c.depth),
  )


def _norm(x, p: Norm, eps):
  return rms_norm(x, p.scale, eps) if p.bias is None else layer_norm(x, p.scale, p.bias, eps)


def _attend(p: Attention, x, c: Config, rules):
  plus = lambda y, b: y if b is None else y + b
  q = plus(einsum('btd,dnh->btnh', x, p.q), p.q_bias)
  k = plus(einsum('btd,dnh->btnh', x, p.k), p.k_bias)
  v = plus(einsum('btd,dnh->btnh', x, p.v), p.v_bias)
  if p.q_norm is not None:
    full = lambda y, w: rms_norm(y.reshape(*y.shape[:2], -1), w, QK_NORM_EPS).reshape(y.shape)
    q, k = full(q, p.q_norm), full(k, p.k_norm)
  y = attention(q, [Keys(jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2))], rules=rules)
  return einsum('btnh,nhd->btd', y, p.o) + p.o_bias


def _drop_path(x, rate, key):
  """Stochastic depth (arXiv 1603.09382): a tile skips the branch with probability `rate`, others are scaled up."""
  kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, 1))
  return x * kept / (1 - rate)


def bicubic_matrix(size: int, new: int) -> np.ndarray:
  """float32 [new, size]: 1-D bicubic interpolation with a = -0.75 and half-pixel centres, edges repeated.

  That is torch's `interpolate(mode='bicubic', align_corners=False)`; `jax.image.resize` uses a = -0.5.
  """
  a = -0.75
  at = (np.arange(new) + 0.5) * size / new - 0.5
  first = np.floor(at).astype(int) - 1
  out = np.zeros((new, size), np.float32)
  for k in range(4):
    d = np.abs(at - (first + k))
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    np.add.at(out, (np.arange(new), np.clip(first + k, 0, size - 1)), np.where(d <= 1, near, far))
  return out


def embed(params: Params, config: Config, pixels: jax.Array) -> jax.Array:
  """Patch tokens [M, 1 + grid², D] of pixels [M, S, S, 3]; another size S resizes the position table bicubically."""
  c, size = config, pixels.shape[1]
  if pixels.ndim != 4 or pixels.shape[2] != size or pixels.shape[3] != 3 or size % c.patch:
    raise ValueError(f'pixels {pixels.shape}: expected [tiles, S, S, 3] with S a multiple of {c.patch}')
  grid = size // c.patch
  patches = pixels.reshape(-1, grid, c.patch, grid, c.patch, 3).astype(params.patch.dtype)
  x = jnp.einsum('mrpcqi,pqid->mrcd', patches, params.patch).reshape(-1, grid**2, c.width) + params.patch_bias
  table = params.positions
  if grid != c.grid:
    rest = table[1:].reshape(c.grid, c.grid, -1).astype(jnp.float32)
    resize = bicubic_matrix(c.grid, grid)
    rest = jnp.einsum('rR,cC,RCd->rcd', resize, resize, rest)
    table = jnp.concatenate([table[:1], rest.reshape(grid**2, -1).astype(table.dtype)])
  x = jnp.concatenate([jnp.broadcast_to(params.cls, (x.shape[0], 1, c.width)).astype(x.dtype), x], 1)
  return x + table


def apply(
  params: Params,
  config: Config,
  pixels: jax.Array,
  *,
  edit=None,
  keep=(),
  rules=RULES,
  remat_policy='none',
  drop_key=None,
) -> tuple[jax.Array, dict]:
  """(features [M, 1 + grid², D] of the last layer, CLS first and no final norm; kept activations).

  drop_key: a jax.random key switches stochastic depth on (training).
  """
  c = config
  # Each tile is computed whole on one device: weights are gathered, activations never are.
  rules = dict(rules) | {'batch': rules['tiles'], 'attn_heads': None}

  def layer(x, i, block):
    tap, kept = taps(edit, keep, i, 'vision.')

    def add(x, branch, y):
      if drop_key is not None and c.drop_path:
        rate = c.drop_path * i / max(c.depth - 1, 1)
        y = _drop_path(y, rate, jax.random.fold_in(jax.random.fold_in(drop_key, i), branch)).astype(x.dtype)
      return x + y

    x = tap('resid_in', constrain(x, ('batch', None, None), rules))
    h = tap('attn_in', _norm(x, block.attn_norm, c.norm_eps))
    x = add(x, 0, tap('attn_out', _attend(block.attn, h, c, rules) * block.attn_scale))
    h = tap('mlp_in', _norm(x, block.mlp_norm, c.norm_eps))
    h = gelu(einsum('btd,df->btf', h, block.up) + block.up_bias)
    h = einsum('btf,fd->btd', h, block.down) + block.down_bias
    x = tap('resid_out', add(x, 1, tap('mlp_out', h * block.mlp_scale)))
    return x, kept

  x, kept = walk(remat(layer, remat_policy), embed(params, c, pixels), params.blocks)
  return x, {site: stack(a) for site, a in kept.items()}
