"""The resolution router of InternVL3.5-Flash: which tiles are compressed to a quarter of their image tokens.

Paper: InternVL3.5 (arXiv 2508.18265 §2.1), ViCO (arXiv 2510.12793). The architecture is that of the released
checkpoints, which is deeper than the paper's text says.

M tiles   P patches   D vision width   N heads   H head size
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core.encoder import Attention, Norm, norm_spec
from core.layers import gelu, layer_norm
from core.params import Spec, dropout, einsum, zeros

HEADS = 16  # of the pooling attention, at every vision width
EXPANSION = 4  # hidden width of a gating block over D
NORM_EPS = 1e-5  # the tower's own norms use 1e-6
DROPOUT = 0.1  # in training, inside the gating blocks
COMPRESS = 0  # index of the gate's output that means "may be compressed"
# Regex of the weights with an effect on the scores: weight decay must not change the others.
TRAINED = r'router\.(pooling\.(query|first|repeated)|gating)(\..*)?'


@dataclasses.dataclass(frozen=True)
class Config:
  """The decision rule of a Flash model. A tile is compressed if its score is above the quantile and at least absolute.

  relative: quantile of the scores of all tiles of a request, in [0, 1]. absolute: probability, in [0, 1]. enabled:
  whether requests are routed unless they say otherwise (`flash_mode`).
  """

  relative: float = 0.0
  absolute: float = 0.5
  enabled: bool = True

  def __post_init__(self):
    for name in ('relative', 'absolute'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f'flash: {name}={value!r}; expected a number in [0, 1]')


@struct.dataclass
class Stage:
  """Weights of one attention of the pooling, and the norm of its output."""

  attn: Attention
  norm: Norm


@struct.dataclass
class Pooling:
  """Weights that summarise a tile in one vector."""

  query: Any  # [D]
  first: Stage
  repeated: Stage  # applied three times
  unused3: Stage  # in the files and without effect: the released forward pass never reads them
  unused4: Stage


@struct.dataclass
class Block:
  """Weights of one residual block of the gating."""

  up: Any  # [D, 4D]
  up_bias: Any
  down: Any  # [4D, D]
  down_bias: Any
  norm: Norm


@struct.dataclass
class Gating:
  """Weights from a tile's summary to its two logits."""

  block1: Block
  block2: Block
  block3: Block
  block4: Block
  norm: Norm
  out: Any  # [D, 2]
  out_bias: Any


@struct.dataclass
class Params:
  """Weights of the router."""

  pooling: Pooling
  gating: Gating


def spec(width: int) -> Params:
  """Every weight, once, for a vision tower of this width. Raises ValueError if HEADS does not divide it."""
  if width % HEADS:
    raise ValueError(f'flash: vision width={width} is not a multiple of the {HEADS} heads of the router')
  stage = Stage(attn=_attention_spec(width), norm=norm_spec(width, 'layer'))
  block = _block_spec(width)
  pooling = Pooling(
    query=Spec((width,), (None,)),
    first=stage,
    repeated=stage,
    unused3=stage,
    unused4=stage,
  )
  gating = Gating(
    block1=block,
    block2=block,
    block3=block,
    block4=block,
    norm=norm_spec(width, 'layer'),
    out=Spec((width, 2), ('vision', None)),
    out_bias=Spec((2,), (None,), zeros),
  )
  return Params(pooling=pooling, gating=gating)


def _attention_spec(width: int) -> Attention:
  shape = width, HEADS, width // HEADS
  into = Spec(shape, ('vision', 'heads', None))
  bias = Spec(shape[1:], (None, None), zeros)
  return Attention(
    q=into,
    k=into,
    v=into,
    o=Spec((*shape[1:], width), ('heads', None, 'vision'), inputs=2),
    q_bias=bias,
    k_bias=bias,
    v_bias=bias,
    o_bias=Spec((width,), (None,), zeros),
  )


def _block_spec(width: int) -> Block:
  hidden = EXPANSION * width
  return Block(
    up=Spec((width, hidden), ('vision', 'mlp')),
    up_bias=Spec((hidden,), (None,), zeros),
    down=Spec((hidden, width), ('mlp', 'vision')),
    down_bias=Spec((width,), (None,), zeros),
    norm=norm_spec(width, 'layer'),
  )


def _normalise(x: jax.Array, p: Norm) -> jax.Array:
  return layer_norm(x, p.scale, p.bias, NORM_EPS)


def _keys(p: Attention, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Keys and values [M, P, N, H] of patches [M, P, D]."""
  k = einsum('mpd,dnh->mpnh', patches, p.k) + p.k_bias
  v = einsum('mpd,dnh->mpnh', patches, p.v) + p.v_bias
  return k, v


def _attend(p: Attention, x: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attention of one query a tile, x [M, D], over its patches."""
  q = einsum('md,dnh->mnh', x, p.q) + p.q_bias
  scores = jnp.einsum('mnh,mpnh->mnp', q, k, preferred_element_type=jnp.float32)
  scaled = scores * q.shape[-1] ** -0.5
  weights = jax.nn.softmax(scaled, -1).astype(v.dtype)
  y = jnp.einsum('mnp,mpnh->mnh', weights, v)
  return einsum('mnh,nhd->md', y, p.o) + p.o_bias


def pool(p: Pooling, patches: jax.Array) -> jax.Array:
  """A summary [M, D] of each tile's patch features [M, P, D]: attention pooling without residuals.

  The second stage's weights are applied three times, over the same patches, as the released model does.
  """
  tiles, _, width = patches.shape
  query = jnp.broadcast_to(p.query, (tiles, width))
  x = query.astype(patches.dtype)
  k, v = _keys(p.first.attn, patches)
  x = _attend(p.first.attn, x, k, v)
  x = _normalise(x, p.first.norm)
  k, v = _keys(p.repeated.attn, patches)
  for _ in range(3):
    x = _normalise(_attend(p.repeated.attn, x, k, v), p.repeated.norm)
  return x


def _block(p: Block, x: jax.Array, key: jax.Array | None) -> jax.Array:
  inner, outer = (None, None) if key is None else jax.random.split(key)
  hidden = dropout(gelu(einsum('md,df->mf', x, p.up) + p.up_bias), DROPOUT, inner)
  y = dropout(einsum('mf,fd->md', hidden, p.down) + p.down_bias, DROPOUT, outer)
  return x + _normalise(y, p.norm)


def gate(p: Gating, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
  """Logits float32 [M, 2] of tile summaries x [M, D]; key: switches dropout on (training)."""
  for i, block in enumerate((p.block1, p.block2, p.block3, p.block4)):
    x = _block(block, x, None if key is None else jax.random.fold_in(key, i))
  return (einsum('md,dc->mc', _normalise(x, p.norm), p.out) + p.out_bias).astype(jnp.float32)


def logits(params: Params, patches: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
  """Logits float32 [..., 2] of tiles from their patch features [..., P, D]; index COMPRESS is "may be compressed".

  key: a jax.random key switches dropout on (training).
  """
  tiles = patches.reshape(-1, *patches.shape[-2:])
  out = gate(params.gating, pool(params.pooling, tiles), key=key)
  return out.reshape(*patches.shape[:-2], 2)


def scores(params: Params, patches: jax.Array) -> jax.Array:
  """Probability float32 [...] that each tile, of patch features [..., P, D], may be compressed."""
  return jax.nn.softmax(logits(params, patches), -1)[..., COMPRESS]


def decide(scores: Any, *, relative: float | None, absolute: float) -> np.ndarray:
  """Which tiles of one request are compressed, bool [M], from their scores float [M].

  A tile is compressed if its score is strictly above the `relative` quantile of the request's scores (linear
  interpolation) and at least `absolute`. So equal scores compress nothing. relative=None leaves the first condition
  out; a tile's decision then does not depend on the tiles around it.
  """
  scores = np.asarray(scores, np.float32)
  chosen = scores >= np.float32(absolute)
  if relative is None or not scores.size:
    return chosen
  return chosen & (scores > np.quantile(scores, np.float32(relative)))
